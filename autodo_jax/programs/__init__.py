"""The program `autodo`, and the experiment files that the package brings."""
