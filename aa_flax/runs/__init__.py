"""A run on disk and among processes: directory, checkpoints, log, signals, hosts."""
