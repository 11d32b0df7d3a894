"""Denoisers: the networks, the exact one of a small distribution, and the interface of one's own (``Denoiser``)."""

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.denoiser.llama import Llama

__all__ = ["Denoiser", "DiT", "ExactDenoiser", "Llama"]
