"""The vocabulary inside a `tokenizer.json`: what stands for unknown characters, and pieces that text must not spell."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import tokenizers

# A noncharacter of Unicode, which no text contains.
_NOWHERE = "\ufdd0"


def unknown_id(model: Mapping[str, Any]) -> int | None:
    """The id of what a character becomes that the vocabulary cannot spell; None if there is none.

    Args:
        model: the "model" of a `tokenizer.json`, of any type: Unigram gives the id, the others the token's name.
    """
    vocabulary = model.get("vocab", {})
    return model.get("unk_id") if isinstance(vocabulary, list) else vocabulary.get(model.get("unk_token"))


def without_spelling(model: Mapping[str, Any], names: Collection[str]) -> tokenizers.models.Model | None:
    """A model with the same ids in which no text becomes one of some pieces; None where none does anyway.

    Special tokens often are pieces of the model as well (T5's `</s>`, BERT's `[MASK]`), so that a tokenizer that does
    not look for them in text still may find them.
    """
    names = _spelled(model).intersection(names)
    if not names:
        return None
    renamed = {name: f"{_NOWHERE}{number}{_NOWHERE}" for number, name in enumerate(sorted(names))}
    changed = dict(model)
    if isinstance(model["vocab"], list):
        changed["vocab"] = [[renamed.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        changed["vocab"] = {renamed.get(piece, piece): id_ for piece, id_ in model["vocab"].items()}
    if changed.get("unk_token") in renamed:
        changed["unk_token"] = renamed[changed["unk_token"]]
    if "merges" in model:
        changed["merges"] = [merge for merge in model["merges"] if names.isdisjoint(_pieces(merge))]
    return tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": changed})).model


def _spelled(model: Mapping[str, Any]) -> set[str]:
    """The pieces that text may become."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, list):
        return {piece for piece, _ in vocabulary}
    if "merges" not in model or model.get("ignore_merges"):
        return set(vocabulary)
    # Byte pair encoding makes all that is longer than a character from merges.
    return {piece for piece in vocabulary if len(piece) == 1} | {_pieces(merge)[2] for merge in model["merges"]}


def _pieces(merge: str | list[str]) -> tuple[str, str, str]:
    """What a merge joins, and what comes of it."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second, first + second
