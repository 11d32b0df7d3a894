"""The sampler: one loop for every schedule, count, order and canvas."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mdm_lightning.arguments import check
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.diffusion.schedule import LinearSchedule, MaskSchedule
from mdm_lightning.sampling.agenda import Adaptive, Agenda, PlannedCounts, PlannedPositions, Work
from mdm_lightning.sampling.blocks import Blocks, Part
from mdm_lightning.sampling.cache import CachePolicy, NoCache, RefreshedCache
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.count import AdaptiveCount, Expected, PlannedCount, RevealCount, alpha_grid
from mdm_lightning.sampling.eos import Ending, Ends, EosFree, EosLast, EosRule
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import LeftToRight, Random, RevealOrder, StaticOrder
from mdm_lightning.sampling.passes import Passes
from mdm_lightning.sampling.plan import RevealPlan
from mdm_lightning.sampling.source import Drawn, Predictions, TokenSource
from mdm_lightning.sampling.tokens import TokenSampler


class Samples(NamedTuple):
    """A completed canvas, and what it cost."""

    tokens: Int64[Tensor, "b l"]
    nfe: int
    """Network evaluations that were run for the batch. A guided step counts two."""
    sequence_nfe: Int64[Tensor, " b"]
    """Network evaluations that each sequence took part in."""
    sequence_positions: Int64[Tensor, " b"]
    """Positions that were computed of each sequence, over all network evaluations: without a cache its
    length times ``sequence_nfe``. What runs with different caches cost is compared by it, not by evaluations."""
    revealed_at: Int64[Tensor, "b l"]
    """Step, from 0, at which each position was (last) revealed; -1 for what was given."""


@dataclass(frozen=True)
class Sampler:
    """Completes partly masked sequences.

    Unconditional generation, prompts, infilling and blocks are the same loop over different canvases. Each step reveals
    some positions given all that was revealed before; a step that reveals none costs no forward pass, and only the
    sequences that reveal some enter the denoiser.

    A denoiser that is conditioned on time is told the schedule's alpha_t at the beginning of the step, as MDLM's
    sampler tells it sigma(t). Where steps are not those of one schedule (adaptive counts, FirstHitting, several
    blocks), it is told the share of positions that are not masked, the prompt included.

    Args:
        schedule: mask schedule that distributes the positions over the steps.
        count: how many positions to reveal at each step.
        order: which of them.
        tokens: how their tokens are drawn.
        blocks: how the canvas is cut for semi-autoregressive generation.
        guidance: classifier-free guidance.
        steps: step budget of calls that name none.
        eos: what becomes of predictions that end a text. A rule other than EosFree has to be told which tokens these
            are (``for_tokenizer``); evaluations and ``mdm.load(...).sample`` do that.
        tempered_evidence: orders and counts look at predictions after temperature, top-k and top-p (Dream), not at the
            denoiser's own.
        cache: which keys and values are kept from step to step. With a cache, the denoiser must be a Transformer that
            is not conditioned on time.
        ending: what an early end (``EosRule.early_end``) looks for; ``for_tokenizer`` says it.

    Raises:
        ValueError: the parts do not fit together.
    """

    schedule: MaskSchedule
    count: RevealCount
    order: RevealOrder
    tokens: TokenSampler = field(default_factory=TokenSampler)
    blocks: Blocks = field(default_factory=Blocks)
    guidance: Guidance = field(default_factory=Guidance)
    steps: int | None = None
    eos: EosRule = field(default_factory=EosFree)
    tempered_evidence: bool = False
    cache: CachePolicy = field(default_factory=NoCache)
    ending: Ending | None = None

    def __post_init__(self) -> None:
        budget = self.steps is None or (isinstance(self.steps, int) and self.steps >= 1)
        check(self, "steps", budget, "a positive integer")
        if isinstance(self.count, PlannedCount) and self.count.remasks and not isinstance(self.order, Random):
            raise ValueError(
                f"Sampler: {type(self.count).__name__} masks positions at random and works with the order Random only, "
                f"got {type(self.order).__name__}"
            )
        if isinstance(self.count, PlannedCount) and self.count.remasks and (self.eos.early_end or self.ending):
            raise ValueError(
                f"Sampler: {type(self.count).__name__} may mask an end again, so that no text ends early; "
                "leave out early_end"
            )
        if isinstance(self.eos, EosLast) and isinstance(self.order, StaticOrder):
            raise ValueError(
                f"Sampler: EosLast looks at drawn tokens, but the order {type(self.order).__name__} chooses positions "
                "before anything is drawn; choose another order, such as Confidence"
            )

    def for_tokenizer(self, ends: Ends) -> "Sampler":
        """The same sampler with its rule for EOS put into ``tokens``, ``order`` and ``ending``.

        Args:
            ends: the tokens that end a text: a ``Tokenizer``.
        """
        tokens, order = self.eos.tokens(self.tokens, ends), self.eos.order(self.order, ends)
        return replace(self, tokens=tokens, order=order, eos=EosFree(), ending=self.eos.ending(ends) or self.ending)

    @property
    def draws_as_predicted(self) -> bool:
        """Whether tokens are drawn from the denoiser's own predictions: nothing is tempered, left out, guided, cut
        short or read from an approximate cache."""
        plain = (self.tokens, self.guidance, self.eos, self.ending) == (TokenSampler(), Guidance(), EosFree(), None)
        return plain and not isinstance(self.cache, RefreshedCache)

    def evidence(self, logits: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """The logits that orders and counts look at."""
        return self.tokens.shape(logits) if self.tempered_evidence else logits

    def __call__(
        self,
        denoiser: Denoiser,
        canvas: Int64[Tensor, "b l"],
        noise: SequenceNoise,
        *,
        steps: int | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
        on_step: Callable[[int, Int64[Tensor, "b l"]], None] | None = None,
    ) -> Samples:
        """Fills the masked positions of ``canvas``.

        Args:
            denoiser: network in evaluation mode, on the canvas' device.
            canvas: token ids, ``denoiser.mask_id`` where to be generated; everything else is kept.
            noise: randomness of the b sequences.
            steps: step budget; by default the sampler's own, and without one a step per masked position. An upper
                bound for adaptive counts; without meaning for FirstHitting.
            padding: True at positions that are not part of a sequence. They are left as they are.
            on_step: called after each step that changed anything, with its number and the tokens so far. The tensor is
                the one being filled: clone it to keep it.

        Raises:
            ValueError: the arguments do not fit each other or the denoiser.
            UserError: the cache does not suit the denoiser.
            NoDistribution: the denoiser's logits are NaN or infinite; noticed when all is done, without waiting for
                the device at every step.
        """
        source = Drawn(self.tokens, self.ending)
        return self.follow(denoiser, canvas, noise, source, steps=steps, padding=padding, on_step=on_step)

    def follow(
        self,
        denoiser: Denoiser,
        canvas: Int64[Tensor, "b l"],
        noise: SequenceNoise,
        source: TokenSource,
        *,
        steps: int | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
        on_step: Callable[[int, Int64[Tensor, "b l"]], None] | None = None,
    ) -> Samples:
        """Fills the masked positions of ``canvas`` along the sampler's path with tokens that ``source`` decides.

        Which positions come next is decided here for drawn tokens (sampling) and for given ones (the walk that
        scores a sequence) alike. The other arguments are those of a call.

        Raises:
            ValueError, NoDistribution: as a call.
        """
        steps = self.steps if steps is None else steps
        self._check(denoiser, canvas, noise, padding)
        _check_steps(steps)
        if denoiser.autoregressive:
            self.check_one_by_one(int((canvas == denoiser.mask_id).sum(1).max()), steps)
        with torch.inference_mode():
            filled, passes = self._fill(denoiser, canvas, noise, source, steps, padding, on_step)
        # Cloned outside inference mode, so that the caller may use them in training.
        return Samples(
            filled.tokens.clone(),
            passes.nfe,
            passes.sequence_nfe.clone(),
            passes.sequence_positions.clone(),
            filled.revealed_at.clone(),
        )

    def _check(self, denoiser: Denoiser, canvas: Tensor, noise: SequenceNoise, padding: Tensor | None) -> None:
        if self.eos != EosFree():
            raise ValueError(
                f"Sampler: {type(self.eos).__name__} does not know which tokens end a text; call for_tokenizer first"
            )
        if canvas.ndim != 2 or canvas.dtype != torch.int64:
            raise ValueError(f"Sampler: canvas must be int64 of shape (b, l), got {canvas.dtype} {tuple(canvas.shape)}")
        if padding is not None and (padding.shape != canvas.shape or padding.dtype != torch.bool):
            raise ValueError(f"Sampler: padding must be bool of the canvas' shape {tuple(canvas.shape)}")
        if len(noise) != len(canvas):
            raise ValueError(f"Sampler: noise for {len(noise)} sequences, but the canvas has {len(canvas)}")
        if canvas.numel() and not 0 <= int(canvas.min()) <= int(canvas.max()) <= denoiser.mask_id:
            raise ValueError(f"Sampler: the canvas has token ids outside 0 ... {denoiser.mask_id} (MASK)")
        self.tokens.check(denoiser.vocab_size)

    def check_one_by_one(self, positions: int, steps: int | None) -> None:
        """For a denoiser that reads what stands before a position alone, all of which has to be there.

        Args:
            positions: to fill, at most.
            steps: step budget; None for a step per position.

        Raises:
            ValueError: positions are filled in another order, or several at once.
        """
        straight = isinstance(self.order, LeftToRight) and isinstance(self.count, Expected)
        # Blocks share steps evenly, whatever their lengths are: that may leave one too few.
        enough = steps is None or (steps >= positions and self.blocks.length is None)
        if not (straight and isinstance(self.schedule, LinearSchedule) and enough):
            raise ValueError(
                "Sampler: an autoregressive model generates one token after the other, from left to right: choose "
                "sampler=left_to_right schedule=linear sampler.steps=null"
            )

    def _fill(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "b l"],
        noise: SequenceNoise,
        source: TokenSource,
        steps: int | None,
        padding: Bool[Tensor, "b l"] | None,
        on_step: Callable[[int, Int64[Tensor, "b l"]], None] | None,
    ) -> tuple[Canvas, Passes]:
        generated = tokens == denoiser.mask_id
        if padding is not None:
            generated &= ~padding
        canvas = Canvas(tokens, generated, self.blocks.index(generated), padding, denoiser.mask_id)
        passes = self.cache.passes(denoiser, canvas, self.guidance)
        parts = self.blocks.parts(generated.cpu(), steps)
        if not parts:  # nothing to generate
            return canvas, passes
        agenda = self._agenda(canvas, parts, noise)
        for planned in agenda.work():
            work = planned if source.ending is None else source.ending.left(canvas, planned)
            if work.rows.numel():
                hidden = passes.hidden(work, agenda.kept(work))
                self._reveal(canvas, agenda, work, source, Predictions(denoiser, hidden, self.guidance, self.tokens))
            canvas.remask(work.remasked)
            if on_step is not None and (work.rows.numel() or work.remasked.numel()):
                on_step(work.step, canvas.tokens)
        canvas.check(noise.indices)
        return canvas, passes

    def _reveal(
        self, canvas: Canvas, agenda: Agenda, work: Work, source: TokenSource, predictions: Predictions
    ) -> None:
        """Decides the tokens of a step's rows, and which of them are revealed."""
        decided, observed = [], []
        for chunk in predictions.chunks():
            logits = predictions.logits(chunk)
            settled, seen = source.decide(canvas, work, chunk, logits)
            decided.append(settled)
            observed.append(agenda.observe(work, chunk, self.evidence(logits), seen))
        evidence = torch.cat(observed, dim=1)
        chosen = agenda.choose(work, evidence)
        source.reveal(work, chosen, predictions, evidence)
        canvas.reveal(work.rows, torch.where(chosen, torch.cat(decided), canvas.mask_id), work.step)
        if source.ending is not None:
            source.ending.fill_ended(canvas, work)

    def _agenda(self, canvas: Canvas, parts: list[Part], noise: SequenceNoise) -> Agenda:
        drawn_at_random = self.tokens.temperature > 0
        if isinstance(self.count, AdaptiveCount):
            deadlines = torch.stack([part.steps for part in parts], dim=1).cumsum(1)
            redraw = drawn_at_random and (self.order.reads_tokens or self.count.reads_tokens)
            return Adaptive(self.count, deadlines, canvas, self.order, self._ranks(parts, noise), noise, redraw)
        plans = [self.count.plan(self.schedule, part.steps, part.generated, noise) for part in parts]
        if isinstance(self.order, StaticOrder):
            plans = [self.order.arrange(plan, noise) for plan in plans]
        plan = reduce(RevealPlan.then, plans)
        kept = None
        if self.count.reads_schedule and len(parts) == 1:
            kept = alpha_grid(self.schedule, parts[0].steps)
        if isinstance(self.order, StaticOrder):
            return PlannedPositions(plan, kept, noise, canvas.tokens.device)
        redraw = drawn_at_random and self.order.reads_tokens
        return PlannedCounts(plan, kept, canvas, self.order, self._ranks(parts, noise), noise, redraw)

    def _ranks(self, parts: list[Part], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        """Places in a static order within each block; zeros for other orders."""
        ranks = torch.zeros(parts[0].generated.shape, dtype=torch.int64)
        if isinstance(self.order, StaticOrder):
            for part in parts:
                ranks = torch.where(part.generated, self.order.ranks(part.generated, noise), ranks)
        return ranks


def _check_steps(steps: int | None) -> None:
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"Sampler: steps must be a positive integer, got {steps}")
