"""What a batch is, and where models are registered."""
