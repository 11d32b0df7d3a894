"""What becomes of predictions that end a text: taken as they are, never made, or revealed last.

A sequence has a fixed number of positions and is filled up with EOS behind its end, so models predict EOS with great
confidence, and an order by confidence may end an answer before it has begun. LLaDA's published scores depend on how
that is kept from happening (Nie et al., 2025, appendix B.4).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.evidence import Candidates
from mdm_lightning.sampling.order import PredictedOrder, RevealOrder, StaticOrder
from mdm_lightning.sampling.tokens import TokenSampler


class Ends(Protocol):
    """The ids that end a text, as a tokenizer knows them."""

    eos_id: int
    pad_id: int
    end_ids: frozenset[int]
    """EOS, PAD and the special tokens known to end a turn of a chat (``<|eot_id|>``, ``<|im_end|>``, ...)."""


@dataclass(frozen=True)
class RankedLast(PredictedOrder):
    """Another order, except that positions whose drawn token is one of ``last`` come behind all others.

    As LLaDA's ``confidence_eos_eot_inf`` does it, the other order sees the distribution without these tokens,
    renormalised; what is drawn does not change. Of positions that come last, the leftmost is first.

    Args:
        order: of the other positions.
        last: token ids.

    Raises:
        ValueError: the order knows its positions before anything is drawn.
    """

    reads_tokens: ClassVar[bool] = True
    order: RevealOrder
    last: Collection[int]

    def __post_init__(self) -> None:
        if isinstance(self.order, StaticOrder):
            raise ValueError(
                f"RankedLast: the order {type(self.order).__name__} chooses positions before their tokens are drawn; "
                "choose one that looks at predictions, such as Confidence"
            )
        object.__setattr__(self, "last", tuple(sorted(self.last)))

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        last = torch.tensor(self.last, dtype=torch.int64, device=candidates.tokens.device)
        others = replace(candidates, logits=candidates.logits.index_fill(1, last, -torch.inf))
        return self.order.priority(others).masked_fill(torch.isin(candidates.tokens, last), -torch.inf)


@dataclass(frozen=True)
class Ending:
    """When a text has ended: one of ``ends`` was revealed, no position in front of it is masked, and nothing that was
    given comes after it (in front of a given suffix no text ends). Whatever would be generated behind it is cut off.

    Args:
        ends: token ids.
        fill: token id of all that comes after the end.
    """

    ends: Collection[int]
    fill: int

    def left(self, canvas: Canvas, work: Work) -> Work:
        """The part of a step's work that concerns sequences with masked positions. Waits for the device."""
        return work.among(canvas.masked(work.sequences).any(1), canvas.tokens.shape[1])

    def fill_ended(self, canvas: Canvas, work: Work) -> None:
        """Fills what is masked in those of a step's sequences that have ended with it."""
        sequences = work.sequences
        masked, tokens = canvas.masked(sequences), canvas.tokens[sequences]
        ends = torch.isin(tokens, torch.tensor(sorted(self.ends), device=tokens.device)) & canvas.generated[sequences]
        settled = masked.cumsum(1) == 0
        given_later = canvas.prompt(sequences).flip(1).cumsum(1).flip(1) > 0
        filled = masked & (ends & settled & ~given_later).any(1, keepdim=True)
        canvas.tokens[sequences] = tokens.masked_fill(filled, self.fill)
        canvas.revealed_at[sequences] = canvas.revealed_at[sequences].masked_fill(filled, work.step)


@dataclass(frozen=True)
class EosRule(ABC):
    """What becomes of predictions that end a text.

    Args:
        early_end: a sequence whose text has ended (``Ending``) is filled with PAD and computed no more.
    """

    early_end: bool = field(default=False, kw_only=True)

    def ending(self, ends: Ends) -> Ending | None:
        """What an early end looks for; None without one."""
        return Ending(ends.end_ids, ends.pad_id) if self.early_end else None

    @abstractmethod
    def tokens(self, tokens: TokenSampler, ends: Ends) -> TokenSampler:
        """How tokens are drawn under the rule."""

    @abstractmethod
    def order(self, order: RevealOrder, ends: Ends) -> RevealOrder:
        """The order under the rule."""


@dataclass(frozen=True)
class EosFree(EosRule):
    """EOS is a token like all others."""

    def tokens(self, tokens: TokenSampler, ends: Ends) -> TokenSampler:
        return tokens

    def order(self, order: RevealOrder, ends: Ends) -> RevealOrder:
        return order


@dataclass(frozen=True)
class EosNever(EosRule):
    """EOS and PAD are never predicted (LLaDA's ``logits_eos_inf``): their probability goes to the other tokens.

    Args:
        turns: nor are tokens that end a turn of a chat. LLaDA leaves these, so that an answer can end.
    """

    turns: bool = False

    def tokens(self, tokens: TokenSampler, ends: Ends) -> TokenSampler:
        banned = ends.end_ids if self.turns else {ends.eos_id, ends.pad_id}
        return replace(tokens, banned=sorted({*tokens.banned, *banned}))

    def order(self, order: RevealOrder, ends: Ends) -> RevealOrder:
        return order


@dataclass(frozen=True)
class EosLast(EosRule):
    """Positions whose drawn token ends a text or a turn are revealed last (LLaDA's ``confidence_eos_eot_inf``).

    With blocks: last of their block.
    """

    def tokens(self, tokens: TokenSampler, ends: Ends) -> TokenSampler:
        return tokens

    def order(self, order: RevealOrder, ends: Ends) -> RevealOrder:
        return RankedLast(order, ends.end_ids)
