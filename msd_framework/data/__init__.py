"""Data sets, processors and loaders."""
