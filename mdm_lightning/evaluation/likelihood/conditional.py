"""Likelihood of texts given contexts, for requests of different lengths: the count-based bound of the NELBO.

    -log p(y | x) <= E_k [ n / k * E_S [ sum over i in S of -log p(y_i | x, y outside S) ] ]

with k uniform on 1 ... n and S uniform among the sets of k of the n target positions (LLaDA, Nie et al., 2025, eq. 6).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, combinations, islice
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mdm_lightning.diffusion.masking import mask_counts, seeded_generator
from mdm_lightning.evaluation.base import Subject, batches
from mdm_lightning.evaluation.measuring import measure_nelbo


class Conditional(NamedTuple):
    """A target y whose likelihood given a context x is asked for."""

    context: Sequence[int]
    target: Sequence[int]
    key: int
    """Of its random masks: equal keys and lengths get equal masks."""


class Bound(NamedTuple):
    """An upper bound on -log p(y | x)."""

    nats: float
    stderr: float
    """Monte-Carlo error of the bound; 0 where it is exact."""


class Masks(NamedTuple):
    """How the n positions of a target are masked, D times. The bound is the sum of ``factor`` times the NELBO."""

    noise: Float64[Tensor, "D n"]
    size: Int64[Tensor, " D"]
    factor: Float64[Tensor, " D"]


@dataclass(frozen=True)
class ConditionalLikelihood:
    """Bounds for many requests at once.

    A target of so few tokens that all its sets of masks can be gone through in ``draws`` forward passes is scored
    exactly, without a random number: one pass for one token. Others get ``draws`` random sets, whose sizes are
    stratified. Masks depend on the seed and the request alone, not on what else is asked.

    Args:
        draws: most masks per request.
        batch_size: sequences per forward pass.
    """

    draws: int = 128
    batch_size: int = 64

    def __call__(self, subject: Subject, requests: Sequence[Conditional]) -> list[Bound]:
        """Every process receives all bounds, in the order of the requests.

        Args:
            requests: of at least one target token and at most ``denoiser.length`` in all.
        """
        # Similar lengths side by side, so that little is padded; the longest first, so that memory runs out at once if
        # it does. The draws of a request are neighbouring rows.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].context) - len(requests[i].target))
        ends = list(accumulate(self._draws(len(requests[i].target)) for i in order))

        def measure(unit: range) -> list[float]:
            place = bisect_right(ends, unit.start)
            rows = []
            for number in unit:
                place += number == ends[place]
                draws = self._draws(len(requests[order[place]].target))
                rows.append((order[place], number - (ends[place] - draws)))
            return self._measure(subject, requests, rows)

        units = batches(ends[-1] if ends else 0, self.batch_size)
        terms = chain.from_iterable(subject.processes.map(measure, units, "likelihood"))
        sizes = {i: len(requests[i].target) for i in order}
        bounds = {i: self._bound(n, list(islice(terms, self._draws(n)))) for i, n in sizes.items()}
        return [bounds[i] for i in range(len(requests))]

    def _is_exact(self, n: int) -> bool:
        return 2**n - 1 <= self.draws

    def _draws(self, n: int) -> int:
        return 2**n - 1 if self._is_exact(n) else self.draws

    def _bound(self, n: int, terms: list[float]) -> Bound:
        total = math.fsum(terms)
        if self._is_exact(n):
            return Bound(total, 0.0)
        if len(terms) == 1:
            return Bound(total, math.inf)
        # Every term is a draw's estimate divided by the number of draws.
        mean = total / len(terms)
        return Bound(total, math.sqrt(len(terms) / (len(terms) - 1) * math.fsum((term - mean) ** 2 for term in terms)))

    def masks(self, n: int, seed: int, key: int) -> Masks:
        """The masks of a target of n tokens."""
        draws = self._draws(n)
        if self._is_exact(n):
            sets = [chosen for k in range(1, n + 1) for chosen in combinations(range(n), k)]
            noise = torch.ones(draws, n, dtype=torch.float64)
            for row, chosen in enumerate(sets):
                noise[row, list(chosen)] = 0
            count = torch.tensor([len(chosen) for chosen in sets])
            factor = torch.tensor([1 / (n * math.comb(n, len(chosen))) for chosen in sets], dtype=torch.float64)
            return Masks(noise, count, factor)
        generator = seeded_generator(seed, key)
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        share = (torch.arange(draws, dtype=torch.float64) + offset) / draws
        count = (share * n).floor().long().clamp(max=n - 1) + 1
        noise = torch.rand(draws, n, generator=generator, dtype=torch.float64)
        return Masks(noise, count, torch.full((draws,), 1 / draws, dtype=torch.float64))

    def _measure(
        self, subject: Subject, requests: Sequence[Conditional], unit: Sequence[tuple[int, int]]
    ) -> list[float]:
        """What each row of a unit, a request and the number of a draw, adds to its request's bound."""
        longest = max(len(requests[i].context) + len(requests[i].target) for i, _ in unit)
        tokens = torch.zeros(len(unit), longest, dtype=torch.int64)
        maskable, padding = torch.zeros_like(tokens, dtype=torch.bool), torch.ones_like(tokens, dtype=torch.bool)
        noise = torch.ones(tokens.shape, dtype=torch.float64)
        count, factor = torch.zeros(len(unit), dtype=torch.int64), torch.zeros(len(unit), dtype=torch.float64)
        masks = {
            i: self.masks(len(requests[i].target), subject.seed, requests[i].key) for i in {index for index, _ in unit}
        }
        for row, (i, draw) in enumerate(unit):
            context, target, _ = requests[i]
            begin, end = len(context), len(context) + len(target)
            tokens[row, :end] = torch.tensor([*context, *target])
            maskable[row, begin:end], padding[row, :end] = True, False
            noise[row, begin:end] = masks[i].noise[draw]
            count[row], factor[row] = masks[i].size[draw], masks[i].factor[draw]
        batch = mask_counts(tokens, maskable, subject.denoiser.mask_id, count, noise)
        # Denoisers that look at alpha saw whole sequences in training, and see them in sampling.
        alpha = (1 - count / (~padding).sum(1)).float()
        batch = batch._replace(alpha=alpha, padding=padding if padding.any() else None)
        estimate = measure_nelbo(subject, batch, lambda row: f"request {unit[row][0]}")
        return (estimate.per_sequence * factor).tolist()


def windows(context: Sequence[int], target: Sequence[int], length: int, key: int) -> list[Conditional]:
    """The requests whose bounds add up to that of a target given a context, cut to fit a model's length.

    A context that is too long loses its beginning. A target that does not fit with any context is cut into pieces of
    half the length, each given what comes before it.

    Args:
        target: at least one token.
        length: most positions of a request.
    """
    if len(context) + len(target) <= length:
        return [Conditional(context, target, key)]
    size = len(target) if len(target) < length else max(1, length // 2)
    before = [*context]
    parts = []
    for start in range(0, len(target), size):
        piece = target[start : start + size]
        room = length - len(piece)
        parts.append(Conditional(before[len(before) - min(room, len(before)) :], piece, key + len(parts)))
        before += piece
    return parts
