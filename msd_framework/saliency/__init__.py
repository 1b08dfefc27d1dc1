"""Saliency scores: how much a modality matters to the teacher."""
