"""How fast each modality of a student learns."""
