"""A stand-in for MMF: the registry, the SampleList, the base model and the configuration files that ours meets."""
