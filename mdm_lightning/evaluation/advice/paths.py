"""Measuring path profiles: along given responses, or along the model's own output without any labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.diffusion.profile.counts import schedule_of_counts
from mdm_lightning.diffusion.profile.path_profile import PathProfile, stretched
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.profile import revealed_counts
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.path import Anchor, block_losses, reference_walk
from mdm_lightning.sampling.sampler import Sampler


class MeasuredPaths(NamedTuple):
    """Path profiles of a sampler's order, and what they cost."""

    profiles: dict[str, PathProfile]
    """By what they were walked along. Those in blocks are of one block, the blocks of a sequence being rows."""
    blocks: int
    """Blocks of the longest sequence."""
    sequences: int
    passes: int
    """Forward passes of single sequences."""


@dataclass(frozen=True)
class Paths:
    """Reference walks along validation sequences, whose prompts are given.

    Args:
        knots: anchors on each walk at most, denser towards both ends: forward passes per sequence and walk.
        sequences: how many; None for all.
        own_blocks: of how many the denoiser is asked, token by token, what it thinks of its own parallel guesses; that
            takes up to n (n + 1) / 2 forward passes each. 0 for none, else at least 4.
        block_knots: anchors where it is asked.
        batch_size: sequences per forward pass.

    Raises:
        ValueError: a number is out of range.
    """

    knots: int = 17
    sequences: int | None = 128
    own_blocks: int = 0
    block_knots: int = 9
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, knots=2, sequences=4, block_knots=2, batch_size=1)
        check(self, "own_blocks", self.own_blocks == 0 or self.own_blocks >= 4, "0 or at least 4")

    def measure(self, subject: Subject, sampler: Sampler) -> MeasuredPaths:
        """Profiles in the sampler's order: ``responses``, along the true ones; ``own``, along the model's output; with
        ``own_blocks`` also ``own blocks``, the negative losses of ``block_losses`` in place of log-probabilities.

        Raises:
            UserError: there are fewer than four validation sequences.
        """
        size = subject.validation_size(self.sequences)
        if size < 4:
            raise UserError(f"a path profile needs four validation sequences; data={subject.data.name} has {size} here")
        indices = list(range(subject.first, subject.first + size))
        lengths = np.concatenate(
            [
                subject.data.validation.__getitems__(indices[start : start + 1024])["maskable"].sum(1).numpy()
                for start in range(0, size, 1024)
            ]
        )
        longest = int(lengths.max())
        width = min(sampler.blocks.length or longest, longest)
        blocks = -(-lengths // width)
        walk = _Walk(subject, sampler.for_tokenizer(subject.tokenizer), width, self.knots)
        # In a batch all sequences have as many blocks, hence as many steps.
        groups = [[i for i, own in zip(indices, blocks, strict=True) if own == number] for number in np.unique(blocks)]
        units = [group[s : s + self.batch_size] for group in groups for s in range(0, len(group), self.batch_size)]
        walked = subject.processes.map(walk, units, "reference walks")
        profiles = {
            name: _profile(walk.anchors, width, [row for part in walked for row in part[name]])
            for name in ("responses", "own")
        }
        passes = 3 * int((blocks * len(walk.anchors)).sum())
        if self.own_blocks:
            asked = replace(walk, block_knots=self.block_knots)
            before = np.cumsum([0, *map(len, units)])
            few = [unit[: self.own_blocks - b] for unit, b in zip(units, before, strict=False) if b < self.own_blocks]
            judged = [row for part in subject.processes.map(asked.own_blocks, few, "own blocks") for row in part]
            profiles["own blocks"] = _profile(asked.block_anchors, width, judged)
            passes += int(sum(len(steps[k][0]) for _, steps in judged for k in steps))
        return MeasuredPaths(profiles, int(blocks.max()), size, passes)


Steps = dict[int, tuple[Float64[np.ndarray, " m"], Bool[np.ndarray, " m"]]]
"""By anchor: log-probabilities in the order, and where the most probable token was right."""
OfSequence = tuple[int, Steps]
"""Steps of a sequence, or of one of its blocks, with the sequence's number."""


@dataclass(frozen=True)
class _Walk:
    """Walks sequences, on whichever process."""

    subject: Subject
    sampler: Sampler
    width: int
    knots: int
    block_knots: int = 2

    @property
    def anchors(self) -> list[int]:
        return revealed_counts(self.width, self.knots)

    @property
    def block_anchors(self) -> list[int]:
        return revealed_counts(self.width, self.block_knots)

    def __call__(self, unit: Sequence[int]) -> dict[str, list[OfSequence]]:
        tokens, maskable = self._batch(unit)
        own = self._generate(unit, tokens, maskable, self.anchors)
        return {
            name: list(self._steps(unit, sequences, maskable, self.anchors))
            for name, sequences in (("responses", tokens), ("own", own))
        }

    def own_blocks(self, unit: Sequence[int]) -> list[OfSequence]:
        tokens, maskable = self._batch(unit)
        own = self._generate(unit, tokens, maskable, self.block_anchors)
        walks = self._anchors(unit, own, maskable, self.block_anchors)
        judged: list[OfSequence] = []
        for block in range(max(len(blocks) for blocks in walks)):
            rows: list[Steps] = [{} for _ in walks]
            for knot in range(len(self.block_anchors)):
                states = [blocks[block][knot] for blocks in walks]
                losses = block_losses(self._walker(self.block_anchors), self.subject.denoiser, own, states)
                for row, loss in zip(rows, losses, strict=True):
                    row[knot] = (-loss, loss <= 0)
            judged += zip(unit, rows, strict=True)
        return judged

    def _batch(self, unit: Sequence[int]) -> tuple[Int64[Tensor, "b l"], Bool[Tensor, "b l"]]:
        clean = self.subject.data.validation.__getitems__(list(unit))
        return clean["tokens"].to(self.subject.device), clean["maskable"].to(self.subject.device)

    def _walker(self, anchors: list[int]) -> Sampler:
        """The sampler whose steps begin at the anchors of every block."""
        schedule = schedule_of_counts(np.diff([*anchors, self.width]))
        blocks = Blocks(self.width)
        return replace(self.sampler, schedule=schedule, count=Expected(), blocks=blocks, steps=None)

    def _generate(
        self, unit: Sequence[int], tokens: Tensor, maskable: Tensor, anchors: list[int]
    ) -> Int64[Tensor, "b l"]:
        denoiser = self.subject.denoiser
        canvas = tokens.masked_fill(maskable, denoiser.mask_id)
        steps = len(anchors) * self._blocks(maskable)
        return self._walker(anchors)(denoiser, canvas, SequenceNoise(self.subject.seed, unit), steps=steps).tokens

    def _blocks(self, maskable: Bool[Tensor, "b l"]) -> int:
        return int(-(-maskable.sum(1).max() // self.width))

    def _anchors(
        self, unit: Sequence[int], sequences: Tensor, maskable: Tensor, anchors: list[int]
    ) -> list[list[dict[int, Anchor]]]:
        """Of each sequence, of each block, by anchor."""
        sampler = replace(self._walker(anchors), steps=len(anchors) * self._blocks(maskable))
        noise = SequenceNoise(self.subject.seed, unit)
        found = []
        for walk in reference_walk(sampler, self.subject.denoiser, sequences, maskable, noise):
            blocks: list[dict[int, Anchor]] = [{} for _ in range(self._blocks(maskable))]
            following: Anchor | None = None
            recorded = {anchor.step: anchor for anchor in walk}
            for step in reversed(range(sampler.steps or 0)):
                block, knot = divmod(step, len(anchors))
                # A step that reveals nothing, in a short sequence, begins where the next one does.
                following = recorded.get(step, following if knot < len(anchors) - 1 else None)
                if following is not None:
                    blocks[block][knot] = following
            found.append(blocks)
        return found

    def _steps(
        self, unit: Sequence[int], sequences: Tensor, maskable: Tensor, anchors: list[int]
    ) -> Iterator[OfSequence]:
        for number, blocks in zip(unit, self._anchors(unit, sequences, maskable, anchors), strict=True):
            for block in blocks:
                yield number, {knot: (anchor.log_probability, anchor.right) for knot, anchor in block.items()}


def _profile(anchors: list[int], width: int, rows: Sequence[OfSequence]) -> PathProfile:
    paths = np.zeros((len(rows), len(anchors), width + 1))
    solid = np.ones((len(rows), len(anchors)))
    for row, (_, steps) in enumerate(rows):
        for knot, (log_probability, right) in steps.items():
            masked = width - anchors[knot]
            path = np.concatenate([[0.0], np.cumsum(log_probability)])
            paths[row, knot, : masked + 1] = stretched(path, masked)
            solid[row, knot] = 1.0 if right.all() else right.argmin() / len(right)
    return PathProfile(np.array(anchors), paths, solid, np.array([number for number, _ in rows]))
