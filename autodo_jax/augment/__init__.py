"""Augmentation: the learned sub-model g_A and the standard one before it."""
