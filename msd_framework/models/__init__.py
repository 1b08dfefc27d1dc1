"""Models and encoders: teachers and students."""
