"""The families of published models. To add one: a file beside this one with a ``Family``, its place in ``FAMILIES``,
and its sizes in ``conf/model``."""

from mdm_lightning.denoiser.published.dream import Dream
from mdm_lightning.denoiser.published.family import Family
from mdm_lightning.denoiser.published.llada import LLaDA
from mdm_lightning.denoiser.published.mdlm import MDLM
from mdm_lightning.denoiser.published.qwen import Qwen
from mdm_lightning.denoiser.published.sdar import SDAR, FastDLLM
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError

# The first that matches: Qwen takes what no other claims.
FAMILIES: tuple[Family, ...] = (MDLM(), LLaDA(), Dream(), SDAR(), FastDLLM(), Qwen())


def recognise(weights: Weights) -> Family:
    """The family that the weights are of.

    Raises:
        UserError: none.
    """
    for family in FAMILIES:
        if family.matches(weights):
            return family
    names = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"{weights.origin} holds weights of none of the known families ({names}), or lacks their {CONFIG}")
