"""The agenda of a sampling run: at each step, which positions enter the head and which of them are revealed.

What is known up front decides the cost of a step. If both count and order are, only the positions to be revealed enter
the head, and the steps follow each other without waiting for the device. If only the count is, all masked positions
(of the current block) enter the head in the sequences that reveal anything. Otherwise they do in all unfinished ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.count import AdaptiveCount
from mdm_lightning.sampling.evidence import Candidates
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import RevealOrder
from mdm_lightning.sampling.plan import NEVER, RevealPlan


class Work(NamedTuple):
    """One step's work. Positions are flat indices; those of ``rows`` and ``remasked`` are into the whole canvas."""

    step: int
    sequences: Int64[Tensor, " a"]
    """Sequences that enter the denoiser, increasing."""
    rows: Int64[Tensor, " m"]
    """Positions that enter the head."""
    selected: Int64[Tensor, " m"]
    """The same, as flat indices into ``sequences``."""
    quantiles: Float64[Tensor, " m"]
    """Token quantiles v_i of these positions."""
    remasked: Int64[Tensor, " r"]
    """Positions to be masked again after this step's prediction."""

    def among(self, chosen: Bool[Tensor, " a"], length: int) -> "Work":
        """The part of the work that concerns some of ``sequences``, which are ``length`` positions long."""
        sequence, position = self.selected // length, self.selected % length
        rows = chosen[sequence]
        number = chosen.cumsum(0) - 1
        return self._replace(
            sequences=self.sequences[chosen],
            rows=self.rows[rows],
            selected=(number[sequence] * length + position)[rows],
            quantiles=self.quantiles[rows],
        )


class Agenda(ABC):
    @abstractmethod
    def work(self) -> Iterator[Work]:
        """The steps at which anything happens, in order. The canvas must be brought up to date between them."""

    @abstractmethod
    def observe(
        self, work: Work, chunk: slice, logits: Float[Tensor, "c d"], tokens: Int64[Tensor, " c"]
    ) -> Float64[Tensor, "s c"]:
        """What ``choose`` wants to know of the predictions and drawn tokens at ``work.rows[chunk]``."""

    @abstractmethod
    def choose(self, work: Work, observed: Float64[Tensor, "s m"]) -> Bool[Tensor, " m"]:
        """Which of ``work.rows`` are revealed."""

    def kept(self, work: Work) -> Float32[Tensor, " a"] | None:
        """alpha_t of the schedule at the beginning of the step, for each of its sequences; None if none says it."""
        return None


class PlannedPositions(Agenda):
    """Everything is known up front: the plan, in the order of the positions, moved to the device at once."""

    def __init__(
        self, plan: RevealPlan, kept: Float64[Tensor, "b k"] | None, noise: SequenceNoise, device: torch.device
    ) -> None:
        self._kept = None if kept is None else kept.float().to(device)
        visits, batch, length = plan.reveal.shape
        steps = int(plan.lengths.max())
        quantiles = torch.stack([noise.token_quantiles(length, visit) for visit in range(visits)])

        event = (plan.reveal != NEVER).nonzero()
        step = plan.reveal[tuple(event.T)]
        event = event[(step * batch + event[:, 1]).argsort(stable=True)]  # by step, then sequence
        _, sequence, position = event.T
        step = plan.reveal[tuple(event.T)]
        pairs, pair = torch.unique_consecutive(step * batch + sequence, return_inverse=True)
        sequences_per_step = torch.bincount(pairs // batch, minlength=steps)
        first = sequences_per_step.cumsum(0) - sequences_per_step

        again = (plan.remask != NEVER).nonzero()
        again = again[plan.remask[tuple(again.T)].argsort(stable=True)]
        remasks_per_step = torch.bincount(plan.remask[tuple(again.T)], minlength=steps).tolist()

        rows_per_step = torch.bincount(step, minlength=steps).tolist()
        self._columns = (
            (pairs % batch).to(device).split(sequences_per_step.tolist()),
            (sequence * length + position).to(device).split(rows_per_step),
            ((pair - first[step]) * length + position).to(device).split(rows_per_step),
            quantiles[tuple(event.T)].to(device).split(rows_per_step),
            (again[:, 1] * length + again[:, 2]).to(device).split(remasks_per_step),
        )

    def work(self) -> Iterator[Work]:
        for step, columns in enumerate(zip(*self._columns, strict=True)):
            work = Work(step, *columns)
            if work.rows.numel() or work.remasked.numel():
                yield work

    def observe(
        self, work: Work, chunk: slice, logits: Float[Tensor, "c d"], tokens: Int64[Tensor, " c"]
    ) -> Float64[Tensor, "0 c"]:
        return logits.new_empty(0, len(tokens), dtype=torch.float64)

    def choose(self, work: Work, observed: Float64[Tensor, "0 m"]) -> Bool[Tensor, " m"]:
        return torch.ones_like(work.rows, dtype=torch.bool)

    def kept(self, work: Work) -> Float32[Tensor, " a"] | None:
        return None if self._kept is None else self._kept[work.sequences, work.step]


class Ranked(Agenda):
    """Positions are chosen among the candidates by the priority that an order gives them.

    ``ranks`` are the positions' places in a static order. With ``redraw``, a position's token quantile is new at each
    step. That is needed when the choice depends on the drawn tokens: the quantile of a position that was passed over is
    not uniform any more.
    """

    def __init__(
        self, canvas: Canvas, order: RevealOrder, ranks: Int64[Tensor, "b l"], noise: SequenceNoise, redraw: bool
    ) -> None:
        self.canvas = canvas
        self.order = order
        self.noise = noise
        self.redraw = redraw
        self.device = canvas.tokens.device
        self.length = canvas.tokens.shape[1]
        self.quantiles = noise.token_quantiles(self.length).to(self.device).flatten()
        self.times = noise.reveal_times(self.length).to(self.device).flatten()
        self.ranks = ranks.to(self.device).flatten()

    def observe(
        self, work: Work, chunk: slice, logits: Float[Tensor, "c d"], tokens: Int64[Tensor, " c"]
    ) -> Float64[Tensor, "s c"]:
        rows, sequence = work.rows[chunk], work.selected[chunk] // self.length
        masked = self.canvas.masked_fraction(work.sequences)[sequence]
        places = rows % self.length
        return self._evidence(Candidates(logits, tokens, self.times[rows], places, masked, self.ranks[rows]))

    @abstractmethod
    def _evidence(self, candidates: Candidates) -> Float64[Tensor, "s c"]: ...

    def _work(self, step: int, sequences: Int64[Tensor, " a"]) -> Work:
        selected = self.canvas.candidates(sequences)
        rows = sequences[selected // self.length] * self.length + selected % self.length
        if self.redraw:
            self.quantiles = self.noise.token_quantiles(self.length, step).to(self.device).flatten()
        return Work(step, sequences, rows, selected, self.quantiles[rows], rows[:0])

    def _dense(self, work: Work, values: Float64[Tensor, " m"]) -> Float64[Tensor, "a l"]:
        """Values of the candidates laid out by sequence and position, -inf elsewhere."""
        dense = values.new_full((len(work.sequences), self.length), -torch.inf)
        dense.view(-1)[work.selected] = values
        return dense

    def _ranking(self, work: Work, priority: Float64[Tensor, " m"]) -> Int64[Tensor, "a l"]:
        """Positions of each sequence by falling priority, the leftmost of equals first, candidates before others."""
        finite = priority.clamp(min=torch.finfo(priority.dtype).min)
        return self._dense(work, finite).argsort(dim=1, descending=True, stable=True)

    @staticmethod
    def _first(work: Work, ranking: Int64[Tensor, "a l"], quota: Int64[Tensor, " a"]) -> Bool[Tensor, " m"]:
        """True for the candidates among the first ``quota`` of each sequence's ranking."""
        return (ranking.argsort(dim=1) < quota[:, None]).flatten()[work.selected]


class PlannedCounts(Ranked):
    """The number of positions per step is known up front."""

    def __init__(
        self,
        plan: RevealPlan,
        kept: Float64[Tensor, "b k"] | None,
        canvas: Canvas,
        order: RevealOrder,
        ranks: Int64[Tensor, "b l"],
        noise: SequenceNoise,
        redraw: bool,
    ) -> None:
        super().__init__(canvas, order, ranks, noise, redraw)
        self._quota = plan.quota()
        self._quota_on_device = self._quota.to(self.device)
        self._kept = None if kept is None else kept.float().to(self.device)

    def work(self) -> Iterator[Work]:
        for step, quota in enumerate(self._quota.T):
            sequences = quota.nonzero().squeeze(1)
            if sequences.numel():
                yield self._work(step, sequences.to(self.device))

    def _evidence(self, candidates: Candidates) -> Float64[Tensor, "1 c"]:
        return self.order.priority(candidates)[None]

    def choose(self, work: Work, observed: Float64[Tensor, "1 m"]) -> Bool[Tensor, " m"]:
        quota = self._quota_on_device[work.sequences, work.step]
        return self._first(work, self._ranking(work, observed[0]), quota)

    def kept(self, work: Work) -> Float32[Tensor, " a"] | None:
        return None if self._kept is None else self._kept[work.sequences, work.step]


class Adaptive(Ranked):
    """The number of positions per step depends on the predictions.

    ``deadlines`` says by which step each block of each sequence must be finished.
    """

    def __init__(
        self,
        count: AdaptiveCount,
        deadlines: Int64[Tensor, "b n"],
        canvas: Canvas,
        order: RevealOrder,
        ranks: Int64[Tensor, "b l"],
        noise: SequenceNoise,
        redraw: bool,
    ) -> None:
        super().__init__(canvas, order, ranks, noise, redraw)
        self._count = count
        self._deadlines = deadlines.to(self.device)

    def work(self) -> Iterator[Work]:
        step = 0
        while (sequences := self.canvas.unfinished()).numel():
            yield self._work(step, sequences)
            step += 1

    def _evidence(self, candidates: Candidates) -> Float64[Tensor, "2 c"]:
        return torch.stack([self.order.priority(candidates), self._count.evidence(candidates)])

    def choose(self, work: Work, observed: Float64[Tensor, "2 m"]) -> Bool[Tensor, " m"]:
        priority, evidence = observed
        ranking = self._ranking(work, priority)
        valid = self._dense(work, torch.ones_like(priority)).gather(1, ranking) > 0
        quota = self._count.count(self._dense(work, evidence).gather(1, ranking), valid)
        block = self.canvas.current_block(work.sequences)[:, None]
        due = self._deadlines[work.sequences].gather(1, block).squeeze(1) <= work.step + 1
        return self._first(work, ranking, torch.where(due, valid.sum(1), quota))
