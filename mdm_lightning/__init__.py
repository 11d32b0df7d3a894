"""mdm-lightning: train, evaluate and schedule masked diffusion language models."""

__version__ = "0.2.0"
