"""The randomness of sampling: drawn once per sequence, up front, from the seed and the sequence's index in the job.

Nothing else enters: neither the batch a sequence happens to be in, nor the schedule, the step budget or the number of
processes. So all cells of a sweep share their noise, and the differences between them have little variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

_REVEAL, _TOKEN, _REMASK, _PHASE = range(4)


@dataclass(frozen=True)
class SequenceNoise:
    """Uniform numbers in [0, 1) for a batch of b sequences: three per position and visit, and one per sequence.

    A position's first visit is number 0; each time it is masked again, the next visit has fresh numbers. The number at
    a position does not depend on the sequence's length either. All are multiples of 2^-53, from the counter-based
    generator Philox (Salmon et al., 2011), whose output is the same on every machine.

    Args:
        seed: seed of the job, from 0 to 2^64 - 1.
        indices: index of each sequence in the job, not negative; a list or a range of length b.

    Raises:
        ValueError: the seed or an index is out of range.
    """

    seed: int
    indices: Sequence[int]

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"SequenceNoise: seed must be from 0 to 2^64 - 1, got {self.seed}")
        if any(not 0 <= index < 2**64 for index in self.indices):
            raise ValueError("SequenceNoise: indices must not be negative")

    def __len__(self) -> int:
        return len(self.indices)

    def reveal_times(self, length: int, visit: int = 0) -> Float64[Tensor, "b l"]:
        """u: when each position is revealed, as a quantile of the time it stays masked."""
        return self._uniform(length, _REVEAL, visit)

    def token_quantiles(self, length: int, visit: int = 0) -> Float64[Tensor, "b l"]:
        """v: which token is revealed, as a quantile of the denoiser's distribution."""
        return self._uniform(length, _TOKEN, visit)

    def remask_times(self, length: int, visit: int = 0) -> Float64[Tensor, "b l"]:
        """When each position is masked again, as a quantile of the time it stays revealed."""
        return self._uniform(length, _REMASK, visit)

    def phases(self) -> Float64[Tensor, " b"]:
        """Where each sequence's order begins, as a share of its length."""
        return self._uniform(1, _PHASE, 0)[:, 0]

    def _uniform(self, length: int, kind: int, visit: int) -> Float64[Tensor, "b l"]:
        # The generator counts in the low words of the counter, so (kind, visit) in the high words select a stream.
        generator = np.random.Philox(counter=np.array([0, 0, kind, visit], dtype=np.uint64))
        state = generator.state
        key = state["state"]["key"]
        bits = np.empty((len(self.indices), length), dtype=np.uint64)
        for row, index in enumerate(self.indices):
            # Setting the state costs a fifth of making a generator.
            key[:] = self.seed, index
            generator.state = state
            bits[row] = generator.random_raw(length)
        return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53)
