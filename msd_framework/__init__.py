"""Modality-specific knowledge distillation: any multimodal model teaches any other, one modality at a time."""

__version__ = "0.1.0"
