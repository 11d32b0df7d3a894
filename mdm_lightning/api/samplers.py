"""Samplers: published ones as functions (``llada()``, ``maskgit()``, ...), and the parts to build one's own."""

from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.cache import DualCache, ExactCache, NoCache, PrefixCache
from mdm_lightning.sampling.eos import EosFree, EosLast, EosNever
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.presets import (
    dream,
    dus,
    eb,
    expected_confidence,
    expected_random,
    fast_dllm,
    first_hitting,
    left_to_right,
    llada,
    maskgit,
    mdlm_ancestral,
    remdm,
    remdm_rescale,
    spaced,
)
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import walk

__all__ = [
    "Blocks",
    "DualCache",
    "EosFree",
    "EosLast",
    "EosNever",
    "ExactCache",
    "Guidance",
    "NoCache",
    "PrefixCache",
    "Sampler",
    "SequenceNoise",
    "TokenSampler",
    "dream",
    "dus",
    "eb",
    "expected_confidence",
    "expected_random",
    "fast_dllm",
    "first_hitting",
    "left_to_right",
    "llada",
    "maskgit",
    "mdlm_ancestral",
    "remdm",
    "remdm_rescale",
    "spaced",
    "walk",
]
