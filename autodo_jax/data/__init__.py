"""Data sets in memory, their split, their distortions and their batches."""
