"""Which points each step sees, and where a step gets them from."""
