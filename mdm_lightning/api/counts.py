"""Reveal counts: how many positions a sampler reveals at each step."""

from mdm_lightning.sampling.count import (
    AdaptiveCount,
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    FixedCount,
    LargestRemainder,
    PlannedCount,
)
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled

__all__ = [
    "AdaptiveCount",
    "Binomial",
    "ConfidenceThreshold",
    "EntropyBounded",
    "Expected",
    "FirstHitting",
    "FixedCount",
    "LargestRemainder",
    "PlannedCount",
    "RemaskCapped",
    "RemaskRescaled",
]
