"""Everything a run leaves on disk: its folder, its files, and who may write them."""
