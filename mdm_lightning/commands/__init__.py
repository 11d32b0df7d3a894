"""Floor 6: the commands, with Hydra: launching ranks, run folders, evaluations, sweeps."""
