"""Losses: of a prediction against its target, and of a student against its teacher."""
