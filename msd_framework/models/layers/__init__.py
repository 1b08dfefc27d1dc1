"""What models are built of: the transformer, its packed form, embeddings, heads."""
