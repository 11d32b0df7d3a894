"""What somebody who mistyped a name probably meant."""

from collections.abc import Iterable
from difflib import SequenceMatcher

CLOSE = 0.6
"""Similarity, from 0 to 1, from which on a name is worth suggesting."""

BARE = 0.95
"""What an option is worth that is the right one but for the group in front of it, against one that is spelled alike."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a mistyped one; None if none is.

    Of a dotted name also the last part alone may be meant: ``lr`` for ``optimizer.lr``.
    """
    others = [other for other in known if not _last(other).startswith("_")]  # _target_ and the like are Hydra's
    if not others:
        return None
    whole = {other: _likeness(name, other) for other in others}
    score = {other: max(whole[other], BARE * _likeness(_last(name), _last(other))) for other in others}
    best = max(others, key=lambda other: (score[other], whole[other], -len(other)))
    return best if score[best] >= CLOSE else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The same in words, to follow the statement that there is no such name."""
    best = nearest(name, known)
    return "" if best is None else f"; did you mean {best}?"


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _last(name: str) -> str:
    return name.rpartition(".")[2]
