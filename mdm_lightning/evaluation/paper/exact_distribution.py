"""The exact distribution of what the K-step sampler generates, for distributions small enough to enumerate.

With the order Random, all that matters of a schedule is how many positions each non-empty step reveals: a composition
of n. The distribution of the output given a composition does not depend on the schedule and is computed once for each
of the 2^(n - 1) compositions, by dynamic programming over the partly masked sequences. A schedule is then a mixture of
them: of one alone if its counts are planned, and with multinomial weights for the independent reverse step, where each
position independently falls into step k with probability alpha_{k+1} - alpha_k.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy import sparse, special
from torch import Tensor

from mdm_lightning.data.tasks.toy import Distribution
from mdm_lightning.denoiser.base import Denoiser, NoDistribution
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.profile.counts import alphas_on_grid
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.sampling.count import Binomial, FixedCount, PlannedCount
from mdm_lightning.sampling.eos import EosFree
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

LARGEST = 2**13
"""Partly masked sequences, (d + 1)^n, of the largest distribution that is enumerated."""

_BATCH = 1024


class ExactSampler:
    """The sampler with the order Random, from all masks, as a map from schedules to distributions.

    Args:
        distribution: the distribution of the data.
        denoiser: a time-agnostic denoiser; by default the exact conditionals of the distribution.

    Raises:
        ValueError: the distribution is too large to enumerate, or does not fit the denoiser.
        NoDistribution: the denoiser's logits are NaN or infinite.
    """

    def __init__(self, distribution: Distribution, denoiser: Denoiser | None = None) -> None:
        self.length, self.vocab_size = distribution.length, distribution.vocab_size
        if (self.vocab_size + 1) ** self.length > LARGEST:
            raise ValueError(
                f"ExactSampler: {distribution.name} has (d + 1)^n = {self.vocab_size + 1}^{self.length} partly masked "
                f"sequences, of which at most {LARGEST} can be enumerated; use shorter sequences or fewer tokens"
            )
        denoiser = denoiser or ExactDenoiser(
            distribution.sequences, distribution.probabilities, distribution.vocab_size
        )
        if denoiser.vocab_size != self.vocab_size:
            raise ValueError(
                f"ExactSampler: {distribution.name} has {self.vocab_size} tokens, not {denoiser.vocab_size}"
            )
        self._states = _all_states(self.length, self.vocab_size)
        masks = (self._states == self.vocab_size).sum(1)
        self.sequences: Int64[np.ndarray, "s n"] = self._states[masks == 0]
        """All d^n sequences, in the order of the distributions' entries."""
        self.target: Float64[np.ndarray, " s"] = self._tabulate(distribution)
        """The distribution of the data."""
        self._compositions = _compositions(self.length)
        self._distributions = self._distributions_of_compositions(masks, _conditionals(denoiser, self._states))

    def distribution(self, schedule: MaskSchedule, steps: int, count: PlannedCount) -> Float64[np.ndarray, " s"]:
        """Probability of each of ``sequences`` as the sampler's output.

        Args:
            schedule: mask schedule.
            steps: step budget.
            count: how many positions to reveal at each step.

        Raises:
            ValueError: the count masks positions again.
        """
        if isinstance(count, Binomial):
            return self._mixture(np.diff(alphas_on_grid(schedule, steps))) @ self._distributions
        if not isinstance(count, FixedCount):
            raise ValueError(f"ExactSampler: {type(count).__name__} masks positions again, which is not enumerated")
        return self.distribution_of_counts(count.counts(schedule, steps, self.length).tolist())

    def distribution_of_counts(self, counts: list[int]) -> Float64[np.ndarray, " s"]:
        """The distribution of the output if exactly n_k positions, at random, are revealed at step k.

        Raises:
            ValueError: the counts do not sum to the length.
        """
        composition = tuple(count for count in counts if count)
        if min(counts) < 0 or sum(counts) != self.length:
            raise ValueError(f"ExactSampler: the counts must sum to {self.length}, got {counts}")
        return self._distributions[self._compositions[self.length].index(composition)]

    def _tabulate(self, distribution: Distribution) -> Float64[np.ndarray, " s"]:
        place = self.vocab_size ** np.arange(self.length)[::-1]
        return np.bincount(
            np.asarray(distribution.sequences) @ place,
            np.asarray(distribution.probabilities),
            minlength=len(self.sequences),
        )

    def _distributions_of_compositions(
        self, masks: Int64[np.ndarray, " z"], conditionals: Float64[np.ndarray, "z n d"]
    ) -> Float64[np.ndarray, "c s"]:
        """The distribution of the output given each composition of n, from those of shorter ones."""
        moves = {j: self._moves(masks, conditionals, j) for j in range(1, self.length + 1)}
        start = (masks == self.length).astype(np.float64)[None]
        distributions = {0: start}
        for revealed in range(1, self.length + 1):
            # The compositions of r are those of r - j with the last part j: the order of ``_compositions``.
            distributions[revealed] = np.concatenate(
                [distributions[revealed - j] @ moves[j] for j in range(1, revealed + 1)]
            )
        return distributions[self.length][:, masks == 0]

    def _moves(
        self, masks: Int64[np.ndarray, " z"], conditionals: Float64[np.ndarray, "z n d"], revealed: int
    ) -> sparse.csr_array:
        """The transitions between states in which so many positions, uniformly random, are revealed at once."""
        place = (self.vocab_size + 1) ** np.arange(self.length)[::-1]
        sources, targets, weights = [], [], []
        for chosen in _subsets(self.length, revealed):
            source = np.flatnonzero((self._states[:, chosen] == self.vocab_size).all(1))
            target, weight = source[:, None], 1 / special.binom(masks[source, None], revealed)
            for position in np.flatnonzero(chosen):
                change = (np.arange(self.vocab_size) - self.vocab_size) * place[position]
                target = (target[:, :, None] + change).reshape(len(source), -1)
                weight = (weight[:, :, None] * conditionals[source, position][:, None]).reshape(len(source), -1)
            sources.append(np.repeat(source, target.shape[1]))
            targets.append(target.ravel())
            weights.append(weight.ravel())
        entries = (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets)))
        return sparse.csr_array(entries, shape=(len(self._states),) * 2)

    def _mixture(self, shares: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " c"]:
        """Probability of each composition of n when every position independently falls into step k with a share.

        The sum over steps k_1 < k_2 < ... of the multinomial n! prod share^c_i / c_i!, one step after another.
        """
        so_far = [np.zeros(len(compositions)) for compositions in self._compositions]
        so_far[0][0] = 1.0
        for share in shares:
            # From the longest down, so that a step serves one part only.
            for total in range(self.length, 0, -1):
                parts = range(1, total + 1)
                so_far[total] += np.concatenate([so_far[total - j] * share**j / math.factorial(j) for j in parts])
        return so_far[self.length] * math.factorial(self.length)


@dataclass(frozen=True)
class ExactDistribution:
    """How far the sampler's output is from the distribution of the data: exact numbers, nothing is drawn.

    Args:
        sampler: with the order Random and plain draws, from all masks.
    """

    judging: ClassVar[Sequence[str]] = ("tv", "kl")
    sampler: Sampler

    def prepare(self, subject: Subject) -> ExactSampler:
        """The distributions of all compositions, made once per subject.

        Raises:
            NotApplicable: the data's distribution is unknown.
            ValueError: the distribution is too large to enumerate, or has other tokens than the denoiser.
        """
        distribution = subject.distribution
        if distribution is None:
            raise NotApplicable(
                "evaluation=exact_distribution needs a distribution to enumerate: data=toy_extremes, "
                "toy_balanced or toy"
            )
        return subject.once(ExactSampler, lambda: ExactSampler(distribution, subject.denoiser))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        NotApplicable: as ``prepare``, or the sampler is not one that can be enumerated.
        ValueError: as ``prepare``.
        """
        exact, distribution, sampler = self.prepare(subject), subject.distribution, self.sampler
        assert distribution is not None
        count = _enumerable_count(sampler)
        output = exact.distribution(sampler.schedule, sampler.steps or distribution.length, count)
        settings = {"data": distribution.name, **describe_sampler(sampler)}
        states = len(exact.sequences)
        yield Row("tv", total_variation(exact.target, output), None, states, settings, "lower", exact=True)
        yield Row("kl", divergence(exact.target, output), None, states, settings, "lower", exact=True)


def total_variation(p: Float64[np.ndarray, " s"], q: Float64[np.ndarray, " s"]) -> float:
    """Half the sum of |p - q|."""
    return float(np.abs(p - q).sum() / 2)


def divergence(p: Float64[np.ndarray, " s"], q: Float64[np.ndarray, " s"]) -> float:
    """KL(p || q) in nats; infinite where q misses a part of p."""
    return float(special.rel_entr(p, q).sum())


def _enumerable_count(sampler: Sampler) -> Binomial | FixedCount:
    """The sampler's count.

    Raises:
        NotApplicable: the distribution of the sampler's output is not that of random positions and plain draws.
    """
    count, one_block = sampler.count, sampler.blocks.length is None
    plain = sampler.tokens == TokenSampler() and sampler.guidance.scale == 0 and one_block
    plain = plain and isinstance(sampler.eos, EosFree)
    if not (plain and isinstance(sampler.order, Random) and isinstance(count, Binomial | FixedCount)):
        raise NotApplicable(
            "evaluation=exact_distribution enumerates order=random with a planned count (binomial, expected, ...), "
            "without temperature, top-k, top-p, rules for EOS, guidance and blocks"
        )
    return count


def _all_states(length: int, vocab_size: int) -> Int64[np.ndarray, "z n"]:
    """All partly masked sequences in lexicographic order, with MASK the last token."""
    return np.indices((vocab_size + 1,) * length).reshape(length, -1).T


def _subsets(length: int, size: int) -> Iterator[Bool[np.ndarray, " n"]]:
    for number in range(2**length):
        chosen = (number >> np.arange(length)) & 1 == 1
        if chosen.sum() == size:
            yield chosen


def _compositions(length: int) -> list[list[tuple[int, ...]]]:
    """The ordered sums of positive numbers to 0, 1, ..., n; those of r by their last part, from 1 to r."""
    result: list[list[tuple[int, ...]]] = [[()]]
    for total in range(1, length + 1):
        result.append([(*head, last) for last in range(1, total + 1) for head in result[total - last]])
    return result


def _conditionals(denoiser: Denoiser, states: Int64[np.ndarray, "z n"]) -> Float64[np.ndarray, "z n d"]:
    """p(x_i | unmasked tokens) in every state."""
    device = next(itertools.chain(denoiser.parameters(), denoiser.buffers())).device
    tables: list[Tensor] = []
    with torch.inference_mode():
        for batch in torch.from_numpy(states).split(_BATCH):
            hidden = denoiser(batch.to(device))
            logits = denoiser.head(hidden.flatten(0, 1)).double().unflatten(0, hidden.shape[:2])
            tables.append(logits.softmax(-1).cpu())
            flawed = (batch == denoiser.mask_id) & ~tables[-1].isfinite().all(-1)
            if bool(flawed.any()):
                row, position = flawed.nonzero()[0].tolist()
                raise NoDistribution(f"position {position} of the partly masked sequence {batch[row].tolist()}")
    return torch.cat(tables).numpy()
