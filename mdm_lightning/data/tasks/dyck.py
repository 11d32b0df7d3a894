"""Dyck words: complete a sequence of brackets so that all are closed in order; many completions are right."""

import random
from collections.abc import Iterator
from functools import cache

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.base import TaskSource, held_out
from mdm_lightning.errors import UserError

_VERSION = 1
_OPENING, _CLOSING = "([{<", ")]}>"


class Dyck(TaskSource):
    """Prompts like "([]=", the beginning of a balanced word, with its rest as the response. Any rest that balances is
    right.

    Words are drawn uniformly from all balanced words of their length, and cut. Prompts recur: there are 136 of five
    brackets of two kinds. A greedy sampler answers a prompt always alike, so that many problems tell no more than few.

    Args:
        kinds: of brackets.
        length: of the whole words.
        given: brackets of a prompt.
    """

    name = "dyck"

    def __init__(
        self,
        *,
        kinds: int = 2,
        length: int = 20,
        given: int = 5,
        train: int = 100_000,
        validation: int = 5_000,
        seed: int = 0,
    ) -> None:
        if not 1 <= kinds <= len(_OPENING):
            raise UserError(f"data.kinds={kinds} should be 1 to {len(_OPENING)}")
        if length < 2 or length % 2 or not 0 <= given < length:
            raise UserError(f"data.length={length} should be even, and data.given={given} from 0 to less than that")
        super().__init__(
            prompt_length=given + 1, response_length=length - given, train=train, validation=validation, seed=seed
        )
        self.kinds = kinds
        self.given = given
        self.words = length
        self.alphabet = _OPENING[:kinds] + _CLOSING[:kinds] + "="

    def settings(self) -> list[object]:
        return ["dyck", _VERSION, self.kinds, self.words, self.given]

    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        while True:
            word = random_word(self.kinds, self.words, rng)
            # By the whole word: prompts are few, and all of them are seen in training.
            if held_out(word) == validation:
                yield word[: self.given] + "=", word[self.given :]

    def judge(self, prompt: str, response: str) -> Verdict:
        valid = len(response) == self.response_length and set(response) <= set(self.alphabet) - {"="}
        return Verdict(valid=valid, correct=valid and balanced(prompt.removesuffix("=") + response))


def balanced(word: str) -> bool:
    """Whether every bracket is closed by its own kind, in order."""
    open_brackets: list[str] = []
    for bracket in word:
        if bracket in _OPENING:
            open_brackets.append(_CLOSING[_OPENING.index(bracket)])
        elif not open_brackets or open_brackets.pop() != bracket:
            return False
    return not open_brackets


def random_word(kinds: int, length: int, rng: random.Random) -> str:
    """A uniformly random balanced word: each bracket in proportion to the number of words that go on with it."""
    word, open_brackets = "", ""
    while len(word) < length:
        left, height = length - len(word) - 1, len(open_brackets)
        opening = kinds * words(kinds, height + 1, left)
        if rng.randrange(words(kinds, height, left + 1)) < opening:
            kind = rng.randrange(kinds)
            word, open_brackets = word + _OPENING[kind], open_brackets + _CLOSING[kind]
        else:
            word, open_brackets = word + open_brackets[-1], open_brackets[:-1]
    return word


@cache
def words(kinds: int, height: int, left: int) -> int:
    """Number of ways to go on for so many brackets and end with none open, with ``height`` open now."""
    if height > left or height < 0:
        return 0
    if left == 0:
        return 1
    return kinds * words(kinds, height + 1, left - 1) + words(kinds, height - 1, left - 1)
