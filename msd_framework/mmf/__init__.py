"""What users of MMF bring along: its checkpoints and its configurations, as ours."""
