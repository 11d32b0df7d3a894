"""Denoisers: the networks, which of their positions read which, what they keep between passes, the exact one of a small
distribution, and the interface of one's own (``Denoiser``)."""

from mdm_lightning.denoiser.attention import AttentionPattern, BlockCausal, Causal, Full
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.transformer import Transformer

__all__ = [
    "AttentionPattern",
    "BlockCausal",
    "Causal",
    "Denoiser",
    "DiT",
    "ExactDenoiser",
    "Full",
    "KeyValueCache",
    "Llama",
    "Transformer",
]
