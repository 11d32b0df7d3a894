"""Running programs that a model has written, kept apart from everything else."""
