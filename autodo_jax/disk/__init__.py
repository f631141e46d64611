"""Files on a disk, read and written with care: others may have had a hand in them."""
