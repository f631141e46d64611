"""Algorithm 1: state, steps and loop."""
