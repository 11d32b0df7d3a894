"""Tokens as text, in context: what is in front decides whether a text begins with a space."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import tokenizers

MASK_SYMBOL = "░"
_CONTEXT = 64  # so many tokens in front decide how text goes on


@dataclass(frozen=True)
class Decoder:
    """Decodes stretches of ordinary tokens, each in the context of what is in front of it.

    The library's decoders know of no context: SentencePiece's take the space away with which a stretch begins.

    Args:
        tokenizer: the library's.
        mask_id: of MASK, which the library does not know.
        special_ids: of tokens that are no text.
        boundaries: those behind which a text always begins: BOS, EOS and PAD.
        special_begins_text: text behind any special token is encoded as at the beginning of a text.
        anything: ids that stand for what is masked, since something is there.
    """

    tokenizer: tokenizers.Tokenizer
    mask_id: int
    special_ids: frozenset[int]
    boundaries: frozenset[int]
    special_begins_text: bool
    anything: Sequence[int]

    def decode(self, ids: Sequence[int], after: Sequence[int], *, skip_special: bool) -> str:
        """Text of ids `(l,)` behind others; MASK is shown as "░"."""
        context: list[int] = []
        for run, separator in self._runs(after[-_CONTEXT:]):
            context = self._context(context, run, separator)
        texts = []
        for run, separator in self._runs(ids):
            texts.append(self._decode_run(context, run, skip_special))
            if separator == self.mask_id:
                texts.append(MASK_SYMBOL)
            elif separator is not None and not skip_special:
                texts.append(self.tokenizer.id_to_token(separator) or "")
            context = self._context(context, run, separator)
        return "".join(texts)

    def _runs(self, ids: Sequence[int]) -> Iterator[tuple[list[int], int | None]]:
        """Ordinary tokens in stretches, each with the MASK or the special token behind it; the last with None."""
        run: list[int] = []
        for token in ids:
            if token == self.mask_id or token in self.special_ids:
                yield run, token
                run = []
            else:
                run.append(token)
        yield run, None

    def _context(self, context: list[int], run: list[int], separator: int | None) -> list[int]:
        """What is in front of the text behind a run and a separator; nothing where a text begins."""
        context = (context + run)[-_CONTEXT:]
        if separator is None:
            return context
        if separator in self.boundaries or (separator != self.mask_id and self.special_begins_text):
            return []
        return context or list(self.anything)

    def _decode_run(self, before: list[int], ids: list[int], skip_special: bool) -> str:
        if not (before and ids):
            return self.tokenizer.decode(ids, skip_special_tokens=skip_special)
        front = self.tokenizer.decode(before, skip_special_tokens=skip_special)
        whole = self.tokenizer.decode(before + ids, skip_special_tokens=skip_special)
        if whole.startswith(front):
            return whole[len(front) :]
        # The front ends in the middle of a character, from where on the two differ.
        return whole[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(front, whole, strict=False))) :]
