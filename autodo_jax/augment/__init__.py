"""Augmentation: fixed policies, standard augmentation, the learned sub-model g_A."""
