"""Addition: the sum of two long numbers, whose carries make a chain of dependencies."""

import random
from collections.abc import Iterator

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.base import TaskSource, held_out
from mdm_lightning.errors import UserError

_VERSION = 1


class Addition(TaskSource):
    """Prompts like "0817+2485=" and responses like "03302": every problem has exactly one right answer.

    Numbers have leading zeros, so that each digit has its place. The two summands in another order are another problem.

    Args:
        digits: of each summand; the sum has one more.
    """

    name = "addition"
    alphabet = "0123456789+="

    def __init__(self, *, digits: int = 10, train: int = 200_000, validation: int = 5_000, seed: int = 0) -> None:
        if not 1 <= digits <= 50:
            raise UserError(f"data.digits={digits} should be 1 to 50")
        super().__init__(
            prompt_length=2 * digits + 2, response_length=digits + 1, train=train, validation=validation, seed=seed
        )
        self.digits = digits

    def settings(self) -> list[object]:
        return ["addition", _VERSION, self.digits]

    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        while True:
            first, second = (rng.randrange(10**self.digits) for _ in range(2))
            prompt = f"{first:0{self.digits}}+{second:0{self.digits}}="
            if held_out(prompt) == validation:
                yield prompt, f"{first + second:0{self.digits + 1}}"

    def judge(self, prompt: str, response: str) -> Verdict:
        valid = len(response) == self.digits + 1 and response.isascii() and response.isdigit()
        first, second = prompt.removesuffix("=").split("+")
        return Verdict(valid=valid, correct=valid and int(response) == int(first) + int(second))
