"""Reference walks: what lies behind a path profile, in the sampler's own order."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.source import Predictions, TokenSource


class Anchor(NamedTuple):
    """A state on a sequence's reference walk: the masked positions, first to be revealed first."""

    step: int
    log_probability: Float64[np.ndarray, " m"]
    """Of the sequence's own tokens, in nats."""
    right: Bool[np.ndarray, " m"]
    """Where the most probable token is the sequence's own."""
    positions: Int64[np.ndarray, " m"]
    drawn: Int64[np.ndarray, " m"]
    """The tokens that the sampler would reveal them as."""
    drawn_log_probability: Float64[np.ndarray, " m"]


def reference_walk(
    sampler: Sampler,
    denoiser: Denoiser,
    sequences: Int64[Tensor, "b l"],
    generated: Bool[Tensor, "b l"],
    noise: SequenceNoise,
    *,
    padding: Bool[Tensor, "b l"] | None = None,
) -> list[list[Anchor]]:
    """The states of each sequence along a sampler's path, K forward passes for a batch.

    Args:
        sampler: a planned count and an order that looks at predictions. Tokens are scored at its temperature, without
            truncation: by the denoiser's own distribution at temperature 0.
        denoiser: network in evaluation mode, on the sequences' device.
        sequences: token ids without MASK.
        generated: positions that the sampler would generate.
        noise: randomness of orders that need it.
        padding: True at positions that are not part of a sequence.

    Raises:
        NoDistribution: the denoiser's logits are NaN or infinite.
    """
    record = _Record(sampler, sequences)
    canvas = sequences.masked_fill(generated, denoiser.mask_id)
    sampler.follow(denoiser, canvas, noise, record, padding=padding)
    return record.anchors


class _Record(TokenSource):
    """The tokens of given sequences, with a record of all masked positions at every step."""

    def __init__(self, sampler: Sampler, sequences: Int64[Tensor, "b l"]) -> None:
        self._temperature = sampler.tokens.temperature or 1.0
        self._tokens = sampler.tokens
        self._sequences = sequences.flatten()
        self._length = sequences.shape[1]
        self._columns: list[Float64[Tensor, "4 c"]] = []
        self.anchors: list[list[Anchor]] = [[] for _ in sequences]

    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        true, mode = self._sequences[work.rows[chunk]], logits.argmax(1)
        canvas.watch(work.rows[chunk], logits.gather(1, mode[:, None]).squeeze(1), work.step)
        drawn = self._tokens.draw(logits, work.quantiles[chunk])
        tempered = logits.double() / self._temperature
        both = tempered.gather(1, torch.stack([true, drawn], dim=1)) - tempered.logsumexp(1, keepdim=True)
        self._columns.append(torch.stack([*both.T, mode == true, drawn]))
        return true, mode if self._tokens.temperature == 0 else true

    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        cost, drawn_cost, right, drawn = torch.cat(self._columns, dim=1).cpu()
        self._columns = []
        rows, priority = work.rows.cpu(), observed[0].cpu()
        # By sequence, then by falling priority; the rows come by position, so the leftmost of equals is first.
        by_priority = priority.argsort(descending=True, stable=True)
        arranged = by_priority[(rows[by_priority] // self._length).argsort(stable=True)]
        sequence = rows[arranged] // self._length
        present, sizes = sequence.unique_consecutive(return_counts=True)
        for row, part in zip(present.tolist(), arranged.split(sizes.tolist()), strict=True):
            columns = (cost[part], right[part].bool(), rows[part] % self._length, drawn[part].long(), drawn_cost[part])
            self.anchors[row].append(Anchor(work.step, *(column.numpy() for column in columns)))


def block_losses(
    sampler: Sampler,
    denoiser: Denoiser,
    sequences: Int64[Tensor, "b l"],
    states: list[Anchor],
    padding: Bool[Tensor, "b l"] | None = None,
) -> list[Float64[np.ndarray, " m"]]:
    """What the denoiser itself thinks of positions that are revealed at once: no labels, no rule.

    From a state of its own walk on, the tokens that would have been revealed together are shown one after another,
    first in the order first. Each then costs what its log-probability lacks of the best one's (at temperature 0) or of
    the one it was drawn with (above), in nats. As many forward passes for a batch as positions are masked.

    Args:
        sequences: the sampler's own output.
        states: one of each sequence's walk.
    """
    device, temperature = sequences.device, sampler.tokens.temperature
    tokens = sequences.clone()
    for row, state in enumerate(states):
        tokens[row, torch.from_numpy(state.positions).to(device)] = denoiser.mask_id
    losses: list[list[float]] = [[] for _ in states]
    outside = torch.zeros_like(tokens, dtype=torch.bool) if padding is None else padding
    with torch.inference_mode():
        for place in range(max(len(state.positions) for state in states)):
            rows = [row for row, state in enumerate(states) if place < len(state.positions)]
            position = torch.tensor([int(states[row].positions[place]) for row in rows], device=device)
            shown = torch.tensor([int(states[row].drawn[place]) for row in rows], device=device)
            there = tokens[rows]
            known = ((there != denoiser.mask_id) & ~outside[rows]).sum(1) / (~outside[rows]).sum(1)
            hidden = denoiser(there, known.float(), None if padding is None else padding[rows])
            logits = sampler.tokens.suppress(denoiser.head(hidden[torch.arange(len(rows)), position])).double()
            logits = (logits / (temperature or 1.0)).log_softmax(1)
            own = logits.gather(1, shown[:, None]).squeeze(1)
            drawn_with = torch.tensor([states[row].drawn_log_probability[place] for row in rows], device=device)
            best = logits.max(1).values if temperature == 0 else drawn_with
            for row, loss in zip(rows, (best - own).tolist(), strict=True):
                losses[row].append(loss)
            tokens[rows, position] = shown
    return [np.array(column) for column in losses]
