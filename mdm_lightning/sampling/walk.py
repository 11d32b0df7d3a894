"""Walks: a sampler's path along a given sequence, whose cost is the sampler's own likelihood of that sequence.

A sampler that never masks again reveals, at each state z, a set A(z) of positions with tokens drawn independently from
q_i(. | z). If A depends on the state alone (a *value-blind* choice: static orders, margin, entropy, the highest
probability), only one path ends in a given sequence x: the one on which x's own tokens are shown. So

    P_K(x) = prod_k prod_{i in A_k} q_i(x_i | z_{k-1})

exactly, for any denoiser, at one forward pass per step and without generating anything. With positions in random order
the walk is that of one draw of the keys; its mean over keys bounds -log P_K(x) from above (Jensen), which for the
independent reverse step is the K-step NELBO. Ben-Hamu et al. (2025) and Wen, Liang & Lu (2026) study such policies.

Orders and counts that look at *drawn* tokens (LLaDA's confidence at a temperature above 0) are not value-blind. There,
with planned counts, the path that always reveals the m most confident true tokens has probability

    Q = prod_{i in A} q_i(x_i) prod_{j masked, not in A} P_{y ~ q_j}[position j then ranks behind A],

and -log of it bounds -log P_K(x) from above. At temperature 0 a drawn token is the most probable one, and the choice is
value-blind again, also with EOS ranked last (``eos.py``). EOS that is never predicted is part of q.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.count import AdaptiveCount, PlannedCount
from mdm_lightning.sampling.eos import EosLast, RankedLast
from mdm_lightning.sampling.evidence import confidence
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, GumbelTopK
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.source import Predictions, TokenSource


class Kind(Enum):
    """What the cost of a walk is."""

    EXACT = "exact"
    """-log P_K(x)."""
    KEYS = "bound: mean over random orders or counts"
    """-log P_K(x | noise): its mean over noise bounds -log P_K(x)."""
    DRAWS = "bound: one path of several"
    """-log of the probability of one of the paths that end in x."""


class Walk(NamedTuple):
    """Sequences along a sampler's path. Generated positions are those that were masked at its start."""

    nats: Float64[Tensor, "b l"]
    """-log q of each generated position, given what was revealed before its step; 0 elsewhere. For Kind.DRAWS the cost
    of the positions that had to be passed over is spread over those of their step."""
    greedy: Bool[Tensor, "b l"]
    """Where the most probable token was the sequence's own; True where nothing was generated. At temperature 0 the
    sampler's output is the sequence exactly if all are."""
    revealed_at: Int64[Tensor, "b l"]
    """Step, from 0, of each generated position; -1 elsewhere."""
    sequence_nfe: Int64[Tensor, " b"]
    """Network evaluations that each sequence took part in."""

    @property
    def cost(self) -> Float64[Tensor, " b"]:
        """Of each sequence, in nats: -log P_K(x) or a bound on it."""
        return self.nats.sum(1)


def kind_of_walk(sampler: Sampler) -> Kind:
    """What a walk of a sampler tells.

    Raises:
        ValueError: nothing: the sampler masks again, or looks at drawn tokens in a way that has no bound.
    """
    count, order = sampler.count, sampler.order
    if sampler.eos.early_end or sampler.ending:
        raise ValueError("walk: with early_end nothing is drawn behind an end, and sequences go on there; leave it out")
    eos_last = isinstance(sampler.eos, EosLast) or isinstance(order, RankedLast)
    if isinstance(order, RankedLast):
        order = order.order
    if isinstance(count, PlannedCount) and count.remasks:
        raise ValueError(f"walk: {type(count).__name__} masks positions again, so many paths end in one sequence")
    if isinstance(order, Confidence) and order.noise > 0:
        raise ValueError("walk: the order Confidence with noise looks at drawn tokens, and its paths have no bound")
    if isinstance(order, GumbelTopK):
        raise ValueError("walk: the order GumbelTopK draws its positions by chance, and its paths have no bound here")
    if sampler.tokens.temperature > 0:
        if eos_last:
            raise ValueError(
                "walk: where EOS was drawn is revealed last, and such paths have no bound; at temperature 0 they have "
                "an exact likelihood"
            )
        if isinstance(count, AdaptiveCount) and (count.reads_tokens or order.reads_tokens):
            raise ValueError(
                f"walk: {type(count).__name__} in the order {type(order).__name__} looks at drawn tokens, and its "
                "paths have no bound; at temperature 0 they have an exact likelihood"
            )
        if order.reads_tokens and not isinstance(order, Confidence):
            name = type(order).__name__
            raise ValueError(f"walk: the order {name} looks at drawn tokens, and its paths have no bound")
        if order.reads_tokens:
            return Kind.DRAWS
    return Kind.KEYS if order.reads_noise or count.reads_noise else Kind.EXACT


def walk(
    sampler: Sampler,
    denoiser: Denoiser,
    sequences: Int64[Tensor, "b l"],
    generated: Bool[Tensor, "b l"],
    noise: SequenceNoise,
    *,
    steps: int | None = None,
    padding: Bool[Tensor, "b l"] | None = None,
    on_step: Callable[[int, Int64[Tensor, "b l"]], None] | None = None,
) -> Walk:
    """The walk of each sequence along the path of a sampler, K forward passes for a batch.

    Args:
        sampler: whose likelihood is asked for; ``sampler.tokens`` says what q is.
        denoiser: network in evaluation mode, on the sequences' device.
        sequences: token ids without MASK.
        generated: positions that the sampler would generate; the others are its prompt.
        noise: reveal times, for random orders.
        steps: step budget; by default the sampler's own.
        padding: True at positions that are not part of a sequence.
        on_step: as of ``Sampler``.

    Raises:
        ValueError: the arguments do not fit each other, or there is no likelihood (``kind_of_walk``).
        NoDistribution: the denoiser's logits are NaN or infinite.
    """
    source = Given(sampler, sequences, generated, passing=kind_of_walk(sampler) is Kind.DRAWS)
    canvas = sequences.masked_fill(generated, denoiser.mask_id)
    samples = sampler.follow(denoiser, canvas, noise, source, steps=steps, padding=padding, on_step=on_step)
    return Walk(source.nats, source.greedy, samples.revealed_at, samples.sequence_nfe)


class Given(TokenSource):
    """The tokens of given sequences, with a record of what they cost.

    Args:
        sampler: whose distributions the tokens are scored by.
        sequences, generated: as in ``walk``.
        passing: also count what it takes that the positions which are not revealed rank behind.
    """

    def __init__(
        self, sampler: Sampler, sequences: Int64[Tensor, "b l"], generated: Bool[Tensor, "b l"], *, passing: bool
    ) -> None:
        self._tokens = sampler.tokens
        self._evidence = sampler.evidence
        self._sequences = sequences.flatten()
        self._length = sequences.shape[1]
        self._passing = passing
        self.nats = torch.zeros(sequences.shape, dtype=torch.float64, device=sequences.device)
        self.greedy = ~generated
        self._cost: list[Float64[Tensor, " c"]] = []
        self._right: list[Bool[Tensor, " c"]] = []

    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        true, mode = self._sequences[work.rows[chunk]], logits.argmax(1)
        # The true token's logit may well be -inf; the largest one may not.
        canvas.watch(work.rows[chunk], logits.gather(1, mode[:, None]).squeeze(1), work.step)
        self._cost.append(-self._tokens.log_probability(logits, true))
        self._right.append(mode == true)
        return true, mode if self._tokens.temperature == 0 else true

    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        cost, right = torch.cat(self._cost), torch.cat(self._right)
        self._cost, self._right = [], []
        if self._passing:
            sequence = work.rows // self._length
            passed = self._cost_of_passing(work, chosen, predictions)
            revealed = torch.zeros_like(passed).index_add_(0, sequence, chosen.double())
            cost = cost + (passed / revealed)[sequence]
        # Not by indices of the chosen rows, whose number only the device knows.
        for record, values in ((self.nats, cost), (self.greedy, right)):
            flat = record.view(-1)
            flat[work.rows] = torch.where(chosen, values, flat[work.rows])

    def _cost_of_passing(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions
    ) -> Float64[Tensor, " b"]:
        """-log of the probability, in each sequence, that all positions which are not revealed rank behind."""
        sequence = work.rows // self._length
        sure = torch.cat(
            [
                confidence(self._evidence(predictions.logits(c)).double(), self._sequences[work.rows[c]])
                for c in predictions.chunks()
            ]
        )
        # The last that is revealed: the least confident and, of equals, the rightmost.
        threshold = torch.full((len(self.nats),), torch.inf, dtype=torch.float64, device=sure.device)
        threshold.scatter_reduce_(0, sequence, sure.masked_fill(~chosen, torch.inf), "amin")
        ties = chosen & (sure == threshold[sequence])
        last = torch.full((len(self.nats),), -1, device=sure.device)
        last.scatter_reduce_(0, sequence, work.rows.masked_fill(~ties, -1), "amax")
        behind = []
        for chunk in predictions.chunks():
            logits = predictions.logits(chunk).double()
            probability = self._evidence(logits).double().softmax(1)
            bar = threshold[sequence[chunk], None]
            right_of_it = (work.rows[chunk] > last[sequence[chunk]])[:, None]
            ranks_behind = (probability < bar) | ((probability == bar) & right_of_it)
            behind.append((self._tokens.probabilities(logits) * ranks_behind).sum(1))
        cost = -torch.cat(behind).log().masked_fill(chosen, 0)
        return torch.zeros_like(threshold).index_add_(0, sequence, cost)
