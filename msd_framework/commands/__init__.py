"""What `msd` does, a command a file: each takes the words of the command line and returns an exit code or raises."""
