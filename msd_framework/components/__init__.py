"""Components: classes that a YAML names, with their constructors' arguments as its options."""
