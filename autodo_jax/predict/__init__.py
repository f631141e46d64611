"""The trained network of a run: loaded, and applied to arrays and to files."""
