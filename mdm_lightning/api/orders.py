"""Reveal orders: which positions a sampler reveals first."""

from mdm_lightning.sampling.order import (
    Confidence,
    Entropy,
    GumbelTopK,
    LeftToRight,
    Margin,
    MaxProbability,
    PredictedOrder,
    Random,
    RevealOrder,
    StaticOrder,
)
from mdm_lightning.sampling.spaced import Dilated, MinimumDistance, Spaced

__all__ = [
    "Confidence",
    "Dilated",
    "Entropy",
    "GumbelTopK",
    "LeftToRight",
    "Margin",
    "MaxProbability",
    "MinimumDistance",
    "PredictedOrder",
    "Random",
    "RevealOrder",
    "Spaced",
    "StaticOrder",
]
