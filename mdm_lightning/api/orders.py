"""Reveal orders: which positions a sampler reveals first."""

from mdm_lightning.sampling.order import (
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    PredictedOrder,
    Random,
    RevealOrder,
    StaticOrder,
)

__all__ = [
    "Confidence",
    "Entropy",
    "LeftToRight",
    "Margin",
    "PredictedOrder",
    "Random",
    "RevealOrder",
    "StaticOrder",
]
