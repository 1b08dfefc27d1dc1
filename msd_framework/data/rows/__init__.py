"""Rows of a text file that is not read whole: CSV, JSON lines, a JSON array."""
