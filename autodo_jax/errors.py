"""What is raised of data."""


class DataError(ValueError):
    """Data that is absent or cannot be used; the message says how to mend it."""
