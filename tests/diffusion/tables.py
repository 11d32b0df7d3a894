"""Schedules to test with, and denoisers small enough to enumerate."""

import itertools
import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    CosineSchedule,
    LinearSchedule,
    MaskSchedule,
    PolynomialSchedule,
    SineSchedule,
    SquaredSineSchedule,
    TabulatedSchedule,
)

ANALYTIC: list[MaskSchedule] = [
    LinearSchedule(),
    SineSchedule(),
    SquaredSineSchedule(),
    CosineSchedule(),
    PolynomialSchedule(0.7),
    PolynomialSchedule(2.0),
    PolynomialSchedule(3.0),
    BetaSchedule(0.5, 0.5),
    BetaSchedule(1.0, 1.0),
    BetaSchedule(0.9, 0.3),
    BetaSchedule(0.3, 0.9),
    BetaSchedule(2.5, 1.5),
]

TABULATED: list[MaskSchedule] = [
    TabulatedSchedule([0, 0.1, 0.5, 0.6, 1]),
    TabulatedSchedule([0, 0.7, 1], times=[0, 0.2, 1]),
]

SCHEDULES = ANALYTIC + TABULATED


def name_of(schedule: MaskSchedule) -> str:
    return repr(schedule).replace("Schedule", "")


class TableDenoiser(Denoiser):
    """Logits looked up by the whole masked sequence: every denoiser of a tiny vocabulary is one of these."""

    def __init__(self, table: Tensor) -> None:
        """The table has shape ((d+1)^n, n, d); a state's row is its number in base d + 1."""
        super().__init__(vocab_size=table.shape[2], length=table.shape[1])
        assert len(table) == (self.vocab_size + 1) ** self.length
        self.table = torch.nn.Parameter(table)

    def forward(self, tokens: Tensor, alpha: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        place = (self.vocab_size + 1) ** torch.arange(self.length).flip(0)
        return self.table[(tokens * place).sum(1)]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def uniform_denoiser(length: int, vocab_size: int) -> TableDenoiser:
    return TableDenoiser(torch.zeros((vocab_size + 1) ** length, length, vocab_size))


def random_denoiser(length: int, vocab_size: int, seed: int = 0) -> TableDenoiser:
    generator = torch.Generator().manual_seed(seed)
    shape = ((vocab_size + 1) ** length, length, vocab_size)
    return TableDenoiser(2 * torch.randn(shape, generator=generator))


def conditionals_of(distribution: dict[tuple[int, ...], float], length: int, vocab_size: int) -> TableDenoiser:
    """The exact conditionals p(x_i | unmasked tokens) of a distribution with full support, by summation."""
    states = list(itertools.product(range(vocab_size + 1), repeat=length))
    table = np.zeros((len(states), length, vocab_size))
    for number, state in enumerate(states):
        for x, probability in distribution.items():
            if all(known in (vocab_size, token) for known, token in zip(state, x, strict=True)):
                for i, token in enumerate(x):
                    table[number, i, token] += probability
    return TableDenoiser(torch.from_numpy(np.log(table, where=table > 0, out=np.full_like(table, -1e4))).float())


def all_masks(length: int) -> Tensor:
    """The 2^n ways to mask a sequence, shape (2^n, n)."""
    return torch.tensor(list(itertools.product((False, True), repeat=length)))


@torch.no_grad()
def exact_nelbo(denoiser: Denoiser, x: Tensor) -> float:
    """The count form by enumeration: the mean over k = 1..n and over the subsets of k masks, with weight n / k.

    In float64 and plain loops, with the head on every position.
    """
    n, masks = len(x), all_masks(len(x))
    hidden = denoiser(torch.where(masks, denoiser.mask_id, x))
    log_p = denoiser.head(hidden.flatten(0, 1)).double().log_softmax(-1).unflatten(0, hidden.shape[:2]).tolist()
    total = 0.0
    for masked, values in zip(masks.tolist(), log_p, strict=True):
        k = sum(masked)
        nats = -sum(values[i][int(x[i])] for i in range(n) if masked[i])
        total += nats / k / math.comb(n, k) if k else 0.0
    return total


def p_value_uniform(values: Tensor) -> float:
    """Kolmogorov-Smirnov test that the values are independent and uniform on [0, 1)."""
    return float(stats.kstest(values.numpy(), "uniform").pvalue)


def z_score(samples: Tensor, expected: float) -> float:
    """Distance of the mean from ``expected`` in standard errors of the mean."""
    samples = samples.double()
    return float((samples.mean() - expected) / (samples.std() / math.sqrt(len(samples))))
