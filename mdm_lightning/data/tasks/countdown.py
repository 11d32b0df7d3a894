"""Countdown: reach a target from given numbers with + - * / and parentheses."""

import operator
import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.base import TaskSource, held_out
from mdm_lightning.errors import UserError

_VERSION = 1
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_ATOM = 3


class Countdown(TaskSource):
    """Prompts like "12,5,7,33,11:67=" and responses like "33*(7-5)+12-11" that end with EOS and then PAD.

    The response has a fixed length, of which EOS and PAD are part, so its length is predicted with it. A response is
    correct if its exact rational value is the target and it uses each given number at most once. The same numbers
    in another order are the same puzzle.

    Args:
        numbers: how many are given.
        max_number: the largest of them; the smallest is 1.
        max_target: the largest target, likewise.
    """

    name = "countdown"
    filled = True
    alphabet = "0123456789+-*/(),:="

    def __init__(
        self,
        *,
        numbers: int = 4,
        max_number: int = 99,
        max_target: int = 99,
        train: int = 100_000,
        validation: int = 1_000,
        seed: int = 0,
    ) -> None:
        if not 2 <= numbers <= 8:
            raise UserError(f"data.numbers={numbers} should be 2 to 8")
        if min(max_number, max_target) < 10:
            raise UserError(f"data.max_number={max_number} and data.max_target={max_target} should be at least 10")
        digits = numbers * len(str(max_number))
        super().__init__(
            prompt_length=digits + numbers + len(str(max_target)) + 1,
            # Digits, operators, the parentheses that can be needed, and EOS.
            response_length=digits + numbers - 1 + 2 * (numbers - 2) + 1,
            train=train,
            validation=validation,
            seed=seed,
        )
        self.numbers = numbers
        self.max_number = max_number
        self.max_target = max_target

    def settings(self) -> list[object]:
        return ["countdown", _VERSION, self.numbers, self.max_number, self.max_target]

    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        while True:
            given = [rng.randint(1, self.max_number) for _ in range(self.numbers)]
            term = _random_term(given, rng)
            if not 1 <= term.value <= self.max_target or term.value in given:
                continue
            puzzle = f"{','.join(map(str, sorted(given)))}:{term.value}"
            if held_out(puzzle) == validation:
                yield f"{','.join(map(str, given))}:{term.value}=", term.text

    def judge(self, prompt: str, response: str) -> Verdict:
        given, target = prompt.removesuffix("=").split(":")
        try:
            value, used = evaluate(response)
        except ValueError:
            return Verdict(valid=False, correct=False)
        except ZeroDivisionError:
            return Verdict(valid=True, correct=False)
        available = Counter(map(int, given.split(",")))
        return Verdict(valid=True, correct=value == int(target) and Counter(used) <= available)


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """The exact value of an expression and the numbers in it.

    Raises:
        ValueError: it is not an expression of natural numbers, + - * / and parentheses.
        ZeroDivisionError: it divides by zero.
    """
    parser = _Parser(expression)
    value = parser.sum()
    if parser.rest:
        raise ValueError(f"unexpected {parser.rest!r}")
    return value, parser.numbers


class _Parser:
    """Recursive descent; `rest` is what remains to be read."""

    def __init__(self, expression: str) -> None:
        self.rest = expression
        self.numbers: list[int] = []

    def sum(self) -> Fraction:
        value = self.product()
        while self.rest[:1] in ("+", "-"):
            apply = _OPERATORS[self._take()]
            value = apply(value, self.product())
        return value

    def product(self) -> Fraction:
        value = self.atom()
        while self.rest[:1] in ("*", "/"):
            apply = _OPERATORS[self._take()]
            value = apply(value, self.atom())
        return value

    def atom(self) -> Fraction:
        if self.rest[:1] == "(":
            self._take()
            value = self.sum()
            if self.rest[:1] != ")":
                raise ValueError("unclosed parenthesis")
            self._take()
            return value
        length = len(self.rest) - len(self.rest.lstrip("0123456789"))
        number, self.rest = self.rest[:length], self.rest[length:]
        if not number or (number.startswith("0") and number != "0"):
            raise ValueError(f"expected a number, not {number + self.rest!r}")
        self.numbers.append(int(number))
        return Fraction(int(number))

    def _take(self) -> str:
        taken, self.rest = self.rest[0], self.rest[1:]
        return taken


class _Term(NamedTuple):
    value: int
    text: str
    binding: int
    """1 for a sum, 2 for a product, 3 for what needs no parentheses."""


def _random_term(given: list[int], rng: random.Random) -> _Term:
    """Combine all numbers, two at a time, such that every intermediate value is a natural number."""
    terms = [_Term(number, str(number), _ATOM) for number in given]
    while len(terms) > 1:
        left = terms.pop(rng.randrange(len(terms)))
        right = terms.pop(rng.randrange(len(terms)))
        choices = ["+", "*"]
        if left.value > right.value:
            choices.append("-")
        if right.value > 1 and left.value % right.value == 0:
            choices.append("/")
        terms.append(_combine(left, rng.choice(choices), right))
    return terms[0]


def _combine(left: _Term, sign: str, right: _Term) -> _Term:
    binding = 1 if sign in "+-" else 2
    before = f"({left.text})" if left.binding < binding else left.text
    # a-(b-c) and a/(b*c) need theirs; a+(b-c) and a*(b/c) do not.
    tight = right.binding < binding or (right.binding == binding and sign in "-/")
    after = f"({right.text})" if tight else right.text
    value = left.value // right.value if sign == "/" else _OPERATORS[sign](left.value, right.value)
    return _Term(value, f"{before}{sign}{after}", binding)
