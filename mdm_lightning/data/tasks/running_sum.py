"""Running sums: every digit follows from the one before it, and hardly from the prompt alone."""

import itertools
import random
from collections.abc import Iterator

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.base import TaskSource, held_out
from mdm_lightning.errors import UserError

_VERSION = 1


class RunningSum(TaskSource):
    """Prompts like "3705=" and responses like "3005": digit i of the response is the sum of the first i digits of the
    prompt, modulo 10. One right answer.

    In one step a network has to add up to ``digits`` numbers at once; with its neighbour revealed a digit takes one
    addition. So a sampler of few steps depends on how many positions it reveals when.

    Args:
        digits: of prompt and response.
    """

    name = "running_sum"
    alphabet = "0123456789="

    def __init__(self, *, digits: int = 12, train: int = 100_000, validation: int = 5_000, seed: int = 0) -> None:
        if not 4 <= digits <= 100:
            raise UserError(f"data.digits={digits} should be 4 to 100")
        super().__init__(
            prompt_length=digits + 1, response_length=digits, train=train, validation=validation, seed=seed
        )
        self.digits = digits

    def settings(self) -> list[object]:
        return ["running_sum", _VERSION, self.digits]

    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        while True:
            prompt = f"{rng.randrange(10**self.digits):0{self.digits}}="
            if held_out(prompt) == validation:
                yield prompt, running_sum(prompt)

    def judge(self, prompt: str, response: str) -> Verdict:
        valid = len(response) == self.digits and response.isascii() and response.isdigit()
        return Verdict(valid=valid, correct=valid and response == running_sum(prompt))


def running_sum(prompt: str) -> str:
    """The response to a prompt."""
    sums = itertools.accumulate(int(digit) for digit in prompt.removesuffix("="))
    return "".join(str(total % 10) for total in sums)
