"""The forward process that fits a denoiser, by how it generates: what validation and likelihood measure by default."""

from dataclasses import dataclass
from typing import Protocol

from mdm_lightning.diffusion.blockwise import Blockwise
from mdm_lightning.diffusion.masking import CountMasking, ForwardProcess, NextToken
from mdm_lightning.diffusion.timesteps import TimeSampler
from mdm_lightning.errors import UserError


class Generates(Protocol):
    """What is asked of a denoiser (mdm_lightning.denoiser.base.Denoiser provides it)."""

    @property
    def autoregressive(self) -> bool: ...

    @property
    def block_size(self) -> int | None: ...


@dataclass(frozen=True)
class Fitting:
    """Stands for the forward process of which the NELBO bounds what a denoiser generates: token by token, and exactly,
    where it is autoregressive (``NextToken``); block by block where its attention is block-causal (``Blockwise``);
    else of whole sequences (``CountMasking``).

    Args:
        times: choose the number of masks.
    """

    times: TimeSampler

    def process(self, denoiser: Generates) -> ForwardProcess:
        """The one for this denoiser."""
        if denoiser.autoregressive:
            return NextToken()
        whole = CountMasking(self.times)
        return whole if denoiser.block_size is None else Blockwise(whole, denoiser.block_size)


def fitted(chosen: ForwardProcess | Fitting, denoiser: Generates) -> ForwardProcess:
    """The forward process that was chosen for a denoiser.

    Raises:
        UserError: one of them is autoregressive, and the other is not.
    """
    if isinstance(chosen, Fitting):
        return chosen.process(denoiser)
    exact = isinstance(chosen, NextToken)
    if exact and not denoiser.autoregressive:
        raise UserError(
            "predicting every position unmasked (next_token) is for autoregressive models, as model=ar makes them: "
            "this one would read the answers"
        )
    if denoiser.autoregressive and not exact:
        raise UserError(
            "this model is autoregressive and knows no masks: leave estimator= out (it is exact then), and train it "
            "by masking@training.masking=next_token, as model=ar says"
        )
    return chosen
