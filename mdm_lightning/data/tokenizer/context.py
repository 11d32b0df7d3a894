"""Text in context: what follows a text is encoded so that no character comes or goes at the seam.

Tokenizers treat the beginning of a text apart (SentencePiece's put a space in front of it), and join what belongs
together across any seam. Whatever is cut in two, prompt and response, prefix and suffix, the pieces of a long document,
is therefore encoded here, by one rule for training, sampling and likelihood:

1. Spaces at the end of a prompt belong to what follows, if the tokenizer attaches a space to the word after it.
2. The ids of a prompt are those of the prompt alone, whatever follows: a sampler knows no more.
3. What follows has the ids that it has in the whole text. Where a token of the whole would reach over the seam, it is
   encoded from the seam on, so that prompt and continuation together still spell the whole text.

The way back is `Tokenizer.decode` and `Tokenizer.answer` with `after=`.
"""

import unicodedata
from collections.abc import Sequence

from mdm_lightning.data.tokenizer.tokenizer import UNKNOWN, Tokenizer

ENCODING = 2
"""Raised where the same text gets other ids than before: what was prepared from it is prepared again."""

# What joins nothing: a private character first, which no vocabulary merges with anything.
_ANCHORS = ("\ue000", "a")
_UTF8_BYTES = 4


def split_spaces(tokenizer: Tokenizer, prompt: str) -> tuple[str, str]:
    """A prompt, and the spaces at its end that become part of what follows; none where a space is a token for itself,
    as among bytes and characters."""
    kept = prompt.rstrip(" ")
    if kept == prompt:
        return prompt, ""
    alone, continued = tokenizer.encode_batch([prompt, f"{prompt}a"])
    return (prompt, "") if continued[: len(alone)] == alone else (kept, prompt[len(kept) :])


def encode_prompt(tokenizer: Tokenizer, prompt: str, *, special: bool = False) -> list[int]:
    """Ids of a prompt that is to be continued, without the spaces that belong to what follows.

    Args:
        special: special tokens that the prompt spells out are meant: a rendered chat.
    """
    return tokenizer.encode(split_spaces(tokenizer, prompt)[0], special=special)


def encode_pairs(
    tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str], *, special: bool = False
) -> list[tuple[list[int], list[int]]]:
    """Ids of each prompt, as `encode_prompt` gives them, and of its response: the spaces at the prompt's end included.

    An empty response has no ids, spaces or not.

    Args:
        special: special tokens that a prompt spells out are meant; in a response they never are.
    """
    parts = [split_spaces(tokenizer, prompt) for prompt in prompts]
    befores = [kept for kept, _ in parts]
    texts = [response and spaces + response for (_, spaces), response in zip(parts, responses, strict=True)]
    before_ids = tokenizer.encode_batch(befores, special=special)
    return list(zip(before_ids, _after(tokenizer, befores, before_ids, texts, special=special), strict=True))


def encode_after(tokenizer: Tokenizer, befores: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts, each of which follows another; an empty one in front means that a text begins there."""
    return _after(tokenizer, befores, tokenizer.encode_batch(befores), texts, special=False)


def encode_fragment(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that follows something, no matter what."""
    return _from_seam(tokenizer, [], text, expected=None)


def spell_out(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, int]]:
    """The text of a sequence `(l,)` in pieces, each with the number of tokens that it takes to spell it.

    Special tokens are spelled out. A piece is a token, or the few tokens that hold the bytes of a character.
    """
    pieces: list[tuple[str, int]] = []
    start = 0
    while start < len(ids):
        texts = [
            tokenizer.decode(ids[start:end], after=ids[:start], skip_special=False)
            for end in range(start + 1, min(start + _UTF8_BYTES, len(ids)) + 1)
        ]
        # No number of tokens completes what is no UTF-8.
        size = next((size for size, text in enumerate(texts, 1) if not text.endswith(UNKNOWN)), 1)
        pieces.append((texts[size - 1], size))
        start += size
    return pieces


def _after(
    tokenizer: Tokenizer,
    befores: Sequence[str],
    before_ids: Sequence[list[int]],
    texts: Sequence[str],
    *,
    special: bool,
) -> list[list[int]]:
    wholes = tokenizer.encode_batch([b + t for b, t in zip(befores, texts, strict=True)], special=special)
    found = []
    for before, ids, whole, text in zip(befores, before_ids, wholes, texts, strict=True):
        if special and any(name in text for name in tokenizer.special_spellings):
            found.append(_from_seam(tokenizer, ids, text, expected=None, last=before[-1:]))
        elif whole[: len(ids)] == ids:
            found.append(whole[len(ids) :])
        else:
            expected = tokenizer.decode(whole, skip_special=False)
            found.append(_from_seam(tokenizer, ids, text, expected=expected, last=before[-1:]))
    return found


def _from_seam(tokenizer: Tokenizer, ids: list[int], text: str, *, expected: str | None, last: str = "") -> list[int]:
    """Ids of a text that do not depend on what is in front of it, but for there being something.

    Args:
        ids: of what is in front.
        expected: what both together should spell.
        last: the last character in front.
    """
    candidates = []
    for anchor in (*_ANCHORS, last):
        alone, both = tokenizer.encode_batch([anchor, anchor + text])
        if both[: len(alone)] == alone:
            candidates.append(both[len(alone) :])
            spelled = tokenizer.decode([*ids, *candidates[-1]], skip_special=False)
            if expected is None or _canonical(spelled) == _canonical(expected):
                return candidates[-1]
    return candidates[0] if candidates else tokenizer.encode(text)


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text)
