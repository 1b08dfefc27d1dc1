"""Metrics, computed once on every prediction of a split."""
