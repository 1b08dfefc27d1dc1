"""Configurations: from YAML to checked, built objects."""
