"""Everything that is wrong with a configuration, found before any data or weight is loaded."""
