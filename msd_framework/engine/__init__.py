"""The runner and what it runs on: processes, checkpoints, optimizers."""
