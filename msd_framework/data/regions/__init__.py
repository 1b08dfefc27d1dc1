"""Features of image regions in files: what others have written, our own store, and what makes one of them."""
