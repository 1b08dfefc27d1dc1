"""Raw inputs to tensors: texts, images, sounds, vectors and features."""
