"""The commands: their flags, their experiments, and the program `autodo`."""
