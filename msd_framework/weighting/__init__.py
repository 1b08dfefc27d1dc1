"""Weighting strategies: how much each view counts."""
