"""Reveal counts: how many positions a sampler reveals at each step."""

from mdm_lightning.sampling.adaptive_count import EarlyExit, EntropySum
from mdm_lightning.sampling.count import (
    AdaptiveCount,
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    FixedCount,
    FixedSizes,
    LargestRemainder,
    PlannedCount,
    ProbabilityThreshold,
)
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sizes import AscendingSizes, DilatedSizes, ShareOfRemaining

__all__ = [
    "AdaptiveCount",
    "AscendingSizes",
    "Binomial",
    "ConfidenceThreshold",
    "DilatedSizes",
    "EarlyExit",
    "EntropyBounded",
    "EntropySum",
    "Expected",
    "FirstHitting",
    "FixedCount",
    "FixedSizes",
    "LargestRemainder",
    "PlannedCount",
    "ProbabilityThreshold",
    "RemaskCapped",
    "RemaskRescaled",
    "ShareOfRemaining",
]
