"""Tests of the programs in `launch/`."""
