"""A certificate: how much K steps lose against one position per step, at most, with a stated confidence.

Let Q_1 be the output of a sampler that reveals one position per step, and Q_K that of the same sampler with K steps, in
the same static order. Given the order, both are products of predictions along one path z_0, z_1, ..., z_n, on which x
is revealed position by position. Q_1 predicts the next position from all that is revealed, Q_K from what was revealed
when its step began, z_k(r). So by the chain rule

    KL(Q_1 || Q_K)  <=  E sum_r KL(p(. | z_r) || p(. | z_k(r)))        at the position revealed after r others,

x drawn from Q_1; given the order they are equal, and averaging over orders can only lessen a divergence. No true token
enters, and no error of the model: for any denoiser this is what parallel steps cost beyond sequential ones. For the
exact denoiser Q_1 is the law of the data, and in random order the right side is the gap of ``LossProfile``. Q_1 keeps
no keys and values; what an approximate cache changes of Q_K's predictions is part of the divergence.

The mean of one sum per path has an upper confidence bound only if the sums are bounded, and log-ratios of predictions
are not. Mixing Q_K's predictions with a little of the uniform distribution, (1 - floor) p + floor / d, bounds each term
by log(d / floor). What is certified is Q_K so mixed. Its output differs from that of Q_K by 1 - (1 - floor)^n at most
in total variation, for with probability (1 - floor)^n no token is drawn from the uniform part.

Wainwright (2026, arXiv:2608.13520) certifies samplers by such terms; the derivation here, for one path that is drawn
position by position, is our own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.evaluation.base import Row, Settings, Subject, batches
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.statistics import LEVEL, empirical_bernstein
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.cache import NoCache
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.count import FirstHitting, PlannedCount
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.source import Drawn, Predictions, TokenSource
from mdm_lightning.sampling.tokens import TokenSampler


@dataclass(frozen=True)
class Certificate:
    """KL(one position per step || K steps) of a sampler with a static order, in nats per sequence: an estimate, and a
    bound that holds with the given confidence, for this one sampler, chosen before.

    Per sequence as many forward passes as positions and steps. Tasks: given the prompts of validation sequences.

    Args:
        sampler: whose K steps are judged.
        sequences: generated sequences; None for all validation sequences. The bound falls below anything useful only
            with many: its term for rare events is 9 n log(d / floor) / sequences.
        confidence: probability that the bound holds.
        floor: share of the uniform distribution in the predictions of the K steps.
        batch_size: sequences at once, whose n x d predictions are kept.

    Raises:
        ValueError: a number is out of range, or the sampler has no such bound: its order looks at predictions, its
            count does or masks positions again, or it takes the most probable token.
    """

    judging: ClassVar[Sequence[str]] = ("parallel_kl", "parallel_kl_bound")
    sampler: Sampler
    sequences: int | None = 512
    confidence: float = LEVEL
    floor: float = 1e-5
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_numbers(self, sequences=2, batch_size=1)
        for name in ("confidence", "floor"):
            check(self, name, 0 < getattr(self, name) < 1, "between 0 and 1")
        order, count = self.sampler.order, self.sampler.count
        if not isinstance(order, StaticOrder) or not isinstance(count, PlannedCount) or count.remasks:
            raise ValueError(
                f"Certificate: {type(count).__name__} in the order {type(order).__name__} does not reveal positions in "
                "an order that is known beforehand; choose order=random or another static one, with a planned count"
            )
        if self.sampler.tokens.temperature == 0:
            raise ValueError("Certificate: a sampler without chance (temperature 0) has no divergence to bound")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        NoDistribution: the denoiser's logits are NaN or infinite.
        """
        wanted = self.sequences
        size = wanted if wanted is not None and not subject.prompted else subject.validation_size(wanted)
        parts = self.sampler.steps or subject.length
        found = subject.processes.map(
            lambda unit: self._divergences(subject, unit),
            batches(size, self.batch_size, subject.first),
            "certificate",
            parts=subject.length + parts,
        )
        scores, positions = (torch.cat(part) for part in zip(*found, strict=True))
        same = bool((positions == positions[0]).all())
        # Where lengths differ, the canvas is what bounds them whatever sequences were drawn.
        n = int(positions[0]) if same else subject.length
        largest = n * math.log(subject.denoiser.vocab_size / self.floor)
        bound = empirical_bernstein(scores.numpy(), largest, level=self.confidence)
        # Tempered, say, not even the exact denoiser's sampler generates the data's law.
        exact = isinstance(subject.denoiser, ExactDenoiser) and self.sampler.draws_as_predicted
        settings: Settings = {
            "against": "the data" if exact else "one position per step",
            "floor": self.floor,
            **describe_sampler(self.sampler),
        }
        yield Row.of_scores("parallel_kl", scores, settings, "lower")
        yield Row("parallel_kl_bound", bound, None, size, {**settings, "confidence": self.confidence}, "lower")
        subject.outputs.text("certificate", self._words(bound, n, str(settings["against"])))

    def _words(self, bound: float, n: int, reference: str) -> str:
        moved = 1 - (1 - self.floor) ** n
        return (
            f"With confidence {self.confidence:g}, KL({reference} || this sampler) is at most {bound:.3g} nats per "
            f"sequence ({bound / n:.3g} per position), up to a change of the sampler's output by {moved:.1g} in total "
            "variation"
        )

    def _divergences(self, subject: Subject, unit: range) -> tuple[Float64[Tensor, " b"], Int64[Tensor, " b"]]:
        """Of each sequence, the sum along its path, and the number of generated positions."""
        denoiser, sampler = subject.denoiser, self.sampler.for_tokenizer(subject.tokenizer)
        canvas = torch.full((len(unit), subject.length), denoiser.mask_id)
        if subject.prompted:
            clean = subject.data.validation.__getitems__(unit)
            canvas = clean["tokens"].masked_fill(clean["maskable"], denoiser.mask_id)
        canvas, noise = canvas.to(subject.device), SequenceNoise(subject.seed, unit)

        def on_step(step: int, tokens: Tensor) -> None:
            subject.processes.advance()

        drawn = _Sequential(sampler.tokens, canvas, denoiser.vocab_size)
        one = replace(sampler, count=FirstHitting(), steps=None, cache=NoCache())
        tokens = one.follow(denoiser, canvas, noise, drawn, on_step=on_step).tokens
        compared = _Parallel(sampler.tokens, tokens, drawn.probabilities, self.floor)
        sampler.follow(denoiser, canvas, noise, compared, on_step=on_step)
        return compared.divergence.sum(1).cpu(), (canvas == denoiser.mask_id).sum(1).cpu()


class _Sequential(TokenSource):
    """Draws tokens, and keeps the distributions that they were drawn from."""

    def __init__(self, tokens: TokenSampler, canvas: Int64[Tensor, "b l"], vocab_size: int) -> None:
        self._drawn, self._tokens = Drawn(tokens), tokens
        self.probabilities = torch.zeros(canvas.numel(), vocab_size, dtype=torch.float64, device=canvas.device)

    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        self.probabilities[work.rows[chunk]] = self._tokens.probabilities(logits)
        return self._drawn.decide(canvas, work, chunk, logits)

    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        """Nothing more is kept."""


class _Parallel(TokenSource):
    """Given tokens, and how far the predictions for them are from those of ``_Sequential``.

    Args:
        tokens: what predictions are turned into.
        sequences: the given tokens.
        later: distributions that they were drawn from, by flat position.
        floor: share of the uniform distribution.
    """

    def __init__(
        self, tokens: TokenSampler, sequences: Int64[Tensor, "b l"], later: Float64[Tensor, "bl d"], floor: float
    ) -> None:
        self._tokens, self._sequences, self._later, self._floor = tokens, sequences.flatten(), later, floor
        self.divergence = torch.zeros(sequences.shape, dtype=torch.float64, device=sequences.device)

    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        rows = work.rows[chunk]
        given, later = self._sequences[rows], self._later[rows]
        earlier = (1 - self._floor) * self._tokens.probabilities(logits) + self._floor / logits.shape[1]
        self.divergence.view(-1)[rows] = (torch.xlogy(later, later) - later * earlier.log()).sum(1)
        canvas.watch(rows, logits.amax(1), work.step)
        return given, given

    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        """All that enters the head is revealed."""
