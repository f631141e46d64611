"""Converts the original archives of public data sets for `sources.tfds`."""
