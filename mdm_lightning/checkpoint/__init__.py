"""Floor 3: what `ckpt=` may name, and reading it: runs of this package and published models."""
