"""Losses: of a prediction against its target, and of a student against its teacher."""

from msd_framework.losses.defaults import default_distillation_loss, default_task_loss

__all__ = ["default_distillation_loss", "default_task_loss"]
