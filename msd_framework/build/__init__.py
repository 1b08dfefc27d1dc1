"""A checked configuration to the objects that run it."""
