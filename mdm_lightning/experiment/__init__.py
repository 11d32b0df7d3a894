"""Floor 5: Hydra. From a composed configuration to a finished run."""
