"""Batches: the points of each step, read from the devices or from files."""
