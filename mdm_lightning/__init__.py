"""mdm-lightning: train, evaluate and schedule masked diffusion language models."""

__version__ = "0.1.0"
