"""A review of the suspects of a run, whose decisions go to a table at once."""
