"""What libtpu makes of the package's programs, on a machine without a TPU."""
