"""Callbacks: they watch a run and never change its loss or its batches."""
