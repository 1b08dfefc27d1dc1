"""What the Modality Focusing Hypothesis speaks of, measured on features and on models (Xue et al., 2023, arXiv:2206.06487)."""
