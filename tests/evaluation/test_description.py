"""Components in words: ours and those that others write."""

import pytest

from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, MaskSchedule, TabulatedSchedule
from mdm_lightning.evaluation.description import describe
from mdm_lightning.sampling.count import EntropyBounded
from mdm_lightning.sampling.order import Confidence


class Plain(MaskSchedule):
    """A schedule as one would write it in a notebook: no dataclass."""

    def __init__(self, power: float = 2.0, name: str = "") -> None:
        self.power = power
        self.name = name

    def alpha_t(self, t):
        return t**self.power

    def masked_t(self, t):
        return 1 - t**self.power

    def dalpha_t(self, t):
        return self.power * t ** (self.power - 1)


class Secretive(Plain):
    def __init__(self, exponent: float) -> None:
        super().__init__(exponent)

    def __repr__(self) -> str:
        return f"My({self.power})"


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (LinearSchedule(), "Linear"),
        (BetaSchedule(0.9, 0.3), "Beta(0.9, 0.3)"),
        (TabulatedSchedule([0.0, 0.25, 1.0]), "Tabulated([0, 0.25, 1])"),
        (Confidence(), "Confidence"),
        (Confidence(4.5), "Confidence(4.5)"),
        (EntropyBounded(0.0), "EntropyBounded(0)"),
        (Plain(3.0), "Plain(3)"),
        (Plain(3.0, "own"), "Plain(3, own)"),
        (Secretive(2.5), "My(2.5)"),
    ],
)
def test_description(component, words):
    assert describe(component) == words
