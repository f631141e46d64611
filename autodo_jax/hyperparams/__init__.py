"""Lambda: the hyperparameters of each train point, and their optimizer."""
