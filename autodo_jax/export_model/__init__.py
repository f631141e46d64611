"""The trained network of a run in formats that need neither this package nor Flax."""
