"""Encoded images: their bytes, from files or archives, and their pixels."""
