"""A run on disk, in a bucket and among processes: directory, checkpoints, log, signals, hosts."""
