"""Everything that a run keeps on disk: its folder and its files."""
