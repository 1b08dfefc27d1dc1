"""What `msd` does, a command a file: its first line is its help, and `main` takes the words behind its name."""
