"""The network evaluations of a sampling run: each computes the hidden states of a step's rows."""

from abc import ABC, abstractmethod
from itertools import compress

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.denoiser.transformer import Transformer
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.guidance import Guidance


class Passes(ABC):
    """The network evaluations of one sampling run, and their number. A guided step counts twice.

    Attributes:
        nfe: network evaluations that were run.
        sequence_nfe: network evaluations that each sequence took part in.
        sequence_positions: positions that were computed of each sequence, over all evaluations. Padding is none.
    """

    def __init__(self, canvas: Canvas, guidance: Guidance) -> None:
        self.canvas = canvas
        self.guidance = guidance
        self.nfe = 0
        self.sequence_nfe = torch.zeros_like(canvas.tokens[:, 0])
        self.sequence_positions = torch.zeros_like(self.sequence_nfe)

    @abstractmethod
    def hidden(self, work: Work, kept: Float32[Tensor, " a"] | None) -> Float[Tensor, "g m h"]:
        """Hidden states of the rows of a step, for each of the contexts that guidance wants.

        Args:
            work: the step's.
            kept: alpha_t of its sequences; None for the share of positions that are not masked.
        """

    def _count(self, sequences: Int64[Tensor, " a"], positions: Int64[Tensor, " a"]) -> None:
        """An evaluation of so many positions of each of the sequences."""
        self.nfe += self.guidance.passes
        self.sequence_nfe[sequences] += self.guidance.passes
        self.sequence_positions[sequences] += self.guidance.passes * positions

    def _contexts(self, sequences: Int64[Tensor, " a"]) -> Int64[Tensor, "ga l"]:
        canvas = self.canvas
        return self.guidance.contexts(canvas.tokens[sequences], canvas.prompt(sequences), canvas.mask_id)


class WholePasses(Passes):
    """Every evaluation computes all positions."""

    def __init__(self, denoiser: Denoiser, canvas: Canvas, guidance: Guidance) -> None:
        super().__init__(canvas, guidance)
        self._denoiser = denoiser
        self._lengths = canvas.lengths()

    def hidden(self, work: Work, kept: Float32[Tensor, " a"] | None) -> Float[Tensor, "g m h"]:
        passes, canvas = self.guidance.passes, self.canvas
        tokens = self._contexts(work.sequences)
        padding = None if canvas.padding is None else canvas.padding[work.sequences].repeat(passes, 1)
        alpha = canvas.kept_fraction(tokens, padding) if kept is None else kept.repeat(passes)
        hidden = self._denoiser(tokens, alpha, padding)
        self._count(work.sequences, self._lengths[work.sequences])
        return hidden.reshape(passes, -1, hidden.shape[-1])[:, work.selected]


class Freshness(ABC):
    """Decides during one sampling run which positions are computed anew at each step."""

    @abstractmethod
    def fresh(self, work: Work) -> Bool[Tensor, "a l"]:
        """Positions that the step computes of its sequences, beside ``work.selected``. Padding is left out anyway."""


class CachedPasses(Passes):
    """An evaluation computes some positions, and reads the others' keys and values as they were computed last.

    Sequences of which more than twice as many positions are computed as of the others (those that begin a block, say)
    are evaluated apart from them. Waits for the device once a step, to know how many there are.
    """

    def __init__(self, denoiser: Transformer, canvas: Canvas, guidance: Guidance, freshness: Freshness) -> None:
        super().__init__(canvas, guidance)
        self._denoiser = denoiser
        self._freshness = freshness
        self._places = canvas.places()
        batch, self._length = canvas.tokens.shape
        self._batch = batch
        self._cache = KeyValueCache(self._length, guidance.passes * batch)

    def hidden(self, work: Work, kept: Float32[Tensor, " a"] | None) -> Float[Tensor, "g m h"]:
        fresh = self._freshness.fresh(work)
        fresh.view(-1)[work.selected] = True
        if self.canvas.padding is not None:
            fresh &= ~self.canvas.padding[work.sequences]
        sizes = fresh.sum(1).tolist()
        many = [size > 2 * min(sizes) for size in sizes]
        if not any(many):
            return self._pass(work, fresh, max(sizes), exact=min(sizes) == max(sizes))
        apart = torch.tensor(many, device=fresh.device)
        inside = apart[work.selected // self._length]
        hidden = None
        for chosen, rows in ((apart, inside), (~apart, ~inside)):
            part = list(compress(sizes, chosen.tolist()))
            found = self._pass(work.among(chosen, self._length), fresh[chosen], max(part), exact=min(part) == max(part))
            if hidden is None:
                hidden = found.new_empty(len(found), len(rows), found.shape[-1])
            hidden[:, rows] = found
        assert hidden is not None
        return hidden

    def _pass(self, work: Work, fresh: Bool[Tensor, "a l"], size: int, *, exact: bool) -> Float[Tensor, "g m h"]:
        """One evaluation of at most ``size`` positions of each sequence; exactly as many if ``exact``."""
        passes, sequences = self.guidance.passes, work.sequences
        columns = fresh.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
        holes = None if exact else (~fresh.gather(1, columns)).repeat(passes, 1)
        if exact and size == self._length:
            columns = columns[:1]  # all of them, in their order
        places = columns if self.canvas.padding is None else self._places[sequences].gather(1, columns)
        contexts = [sequences + context * self._batch for context in range(passes)]
        self._cache.select(None if len(sequences) == self._batch else torch.cat(contexts))
        hidden = self._denoiser(
            self._contexts(sequences).gather(1, columns.expand(len(sequences), -1).repeat(passes, 1)),
            padding=holes,
            positions=places if len(places) == 1 else places.repeat(passes, 1),
            cache=self._cache,
        )
        self._count(sequences, fresh.sum(1))
        slot = (fresh.cumsum(1) - 1).view(-1)[work.selected]
        rows = work.selected // self._length * size + slot
        return hidden.reshape(passes, -1, hidden.shape[-1])[:, rows]
