"""Data sets: their sources, checks, splits, distortions and batches."""
