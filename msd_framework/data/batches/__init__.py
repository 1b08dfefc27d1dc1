"""Which examples a step sees, and how they become tensors."""
