"""What the framework costs, measured against what its users would run without it."""
