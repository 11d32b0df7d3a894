"""The denoiser protocol: hidden states and output head are separate calls.

The head is the dearest layer of a small language model, and only masked positions need it. Callers run the trunk on the
whole sequence, pick the rows they want, and apply the head to those.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdm_lightning.errors import UserError

LOGITS_AT_ONCE = 2**26
"""Of a cross-entropy: 256 MiB in float32. Measured fastest at d = 50,000 among 2^23 ... 2^26."""

ShapeOf = Callable[[str], tuple[int, ...] | None]


DENOISER = "denoiser."  # prefix of the denoiser's weights in a checkpoint of a run


class NoDistribution(UserError):
    """A denoiser's logits are no distribution: one of them is NaN or +inf, or none is finite."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"the model predicts NaN or infinite logits at {where}: its weights are broken, or too large for the "
            "precision (try trainer.precision=32-true)"
        )


class Denoiser(nn.Module, ABC):
    """Predicts p(x_i | unmasked tokens) at every position.

    Args:
        vocab_size: d, the number of tokens the model can predict. MASK is not among them: its id is d, one past the
            last, it has an embedding but no output column, and so can never be predicted.
        length: longest sequence the model accepts.

    Attributes:
        autoregressive: it reads what stands before a position alone, and so can generate from left to right only.
        block_size: positions per block of a denoiser that generates block by block, which ``beside_clean`` takes; None
            of others.
    """

    autoregressive: bool = False

    def __init__(self, vocab_size: int, length: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.length = length

    @property
    def block_size(self) -> int | None:
        return None

    @property
    def mask_id(self) -> int:
        return self.vocab_size

    @abstractmethod
    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        """Hidden states.

        Args:
            tokens: token ids, ``mask_id`` where unknown.
            alpha: probability with which each sequence's tokens were kept. Ignored by time-agnostic denoisers.
            padding: True at positions that are not part of the sequence and that nothing may attend to.
        """

    def beside_clean(
        self,
        tokens: Int64[Tensor, "b l"],
        clean: Int64[Tensor, "b l"],
        block_size: int,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        """Hidden states of every block of ``tokens`` as they are where the blocks before it are those of ``clean``.

        Args:
            tokens: as in ``forward``.
            clean: the same sequences without MASK.
            block_size: positions per block.
            padding: as in ``forward``.

        Raises:
            UserError: the denoiser does not predict blocks of this size one after the other.
        """
        raise UserError(f"{type(self).__name__} does not predict in blocks: blockwise masks are not for it")

    @abstractmethod
    def head(self, hidden: Float[Tensor, "m h"]) -> Float[Tensor, "m d"]:
        """Logits over the d ordinary tokens for rows of hidden states; -inf for probability zero."""

    @property
    def recomputes_logits(self) -> bool:
        """Whether training computes the logits of many rows twice, so that few of them are in memory."""
        return True

    @property
    def rows_at_once(self) -> int:
        return max(1, LOGITS_AT_ONCE // self.vocab_size)

    def cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """-log p(target) in nats for rows of hidden states, in float32 whatever the precision of the trunk.

        The logits of at most ``rows_at_once`` rows are in memory: without a gradient at no cost, in training if the
        denoiser ``recomputes_logits``. At 126,000 tokens those of a batch are larger than the model.
        """
        rows, trained = self.rows_at_once, torch.is_grad_enabled()
        if len(hidden) <= rows or (trained and not self.recomputes_logits):
            return self._cross_entropy(hidden, targets)
        chunk = partial(checkpoint, self._cross_entropy, use_reentrant=False) if trained else self._cross_entropy
        return torch.cat([chunk(h, y) for h, y in zip(hidden.split(rows), targets.split(rows), strict=True)])

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles, as ``torch.compile`` does with these options, the trunk, and the head with its loss for any number
        of rows."""
        super().compile(*args, **options)
        self._cross_entropy = torch.compile(self._cross_entropy, *args, **{**options, "dynamic": True})

    def _cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        return F.cross_entropy(self.head(hidden).float(), targets, reduction="none")

    @classmethod
    def sizes(cls, shape: ShapeOf) -> dict[str, int]:
        """Arguments of the constructor that weights show, known before anything is built; 0 where the parameter that
        would show it is missing. By default nothing is known.

        Args:
            shape: of a parameter by its name in the denoiser; None where there is none of that name.
        """
        return {}

    def check_length(self, tokens: Int64[Tensor, "b l"]) -> int:
        """The length of the sequences.

        Raises:
            ValueError: it is beyond ``length``.
        """
        length = tokens.shape[1]
        if length > self.length:
            raise ValueError(f"sequence length {length} is beyond the model's length {self.length}")
        return length

    def shards(self) -> Iterable[nn.Module]:
        """Submodules worth sharding on their own (FSDP): by default none, the whole is one shard."""
        return ()

    def forward_flops(self, length: int) -> tuple[float, float]:
        """Matrix-product FLOPs of one forward pass: of the trunk per token, of the head per row. NaN if not counted."""
        return math.nan, math.nan


def stored_size(shape: ShapeOf, name: str, axis: int = 0) -> int:
    """A size of a parameter; 0 if there is no such parameter, or it has no such axis."""
    return dict(enumerate(shape(name) or ())).get(axis, 0)


def stored_depth(shape: ShapeOf, name: str) -> int:
    """Number of blocks that have a parameter: ``name`` with the block's number in the place of ``{}``."""
    return next(number for number in count() if shape(name.format(number)) is None)


def oversized(arguments: Mapping[str, Any], sizes: Mapping[str, int], spare: int = 0) -> str:
    """The arguments that ask for more than weights have, listed for a message; empty if none does.

    Args:
        sizes: as ``Denoiser.sizes`` tells them.
        spare: how much more is let pass.
    """
    larger = [
        f"{name} is {arguments[name]}, the weights have {size}"
        for name, size in sizes.items()
        if isinstance(arguments.get(name), int) and arguments[name] > size + spare
    ]
    return ", ".join(larger)
