"""Maskers: how a modality is hidden."""
