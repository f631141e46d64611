"""Measurements of speed and of results; README.md says how to run them."""
