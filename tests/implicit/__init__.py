"""Tests of the implicit-differentiation library."""
