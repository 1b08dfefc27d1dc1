"""Objectives: what is minimised."""
