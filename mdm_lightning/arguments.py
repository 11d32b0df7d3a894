"""Checks of the numbers that a constructor is given."""

import math
from numbers import Real


class BadArgument(ValueError):
    """An argument is of the right type, and out of range.

    Attributes:
        name: of the argument.
        value: what it was.
        wanted: what it should be, in words.
    """

    def __init__(self, owner: object, name: str, value: object, wanted: str) -> None:
        super().__init__(f"{type(owner).__name__}: {name} must be {wanted}, got {value}")
        self.name = name
        self.value = value
        self.wanted = wanted


def check(owner: object, name: str, good: bool, wanted: str) -> None:
    """Checks an attribute of an object that is being constructed.

    Raises:
        BadArgument: it is not good.
    """
    if not good:
        raise BadArgument(owner, name, getattr(owner, name), wanted)


def check_numbers(owner: object, **least: int) -> None:
    """Checks attributes of an object that is being constructed; None stands for no limit, and passes.

    Raises:
        BadArgument: one of them is less than the given number, or no number.
    """
    for name, smallest in least.items():
        value = getattr(owner, name)
        good = value is None or (isinstance(value, Real) and float(value) >= smallest)
        check(owner, name, good, f"at least {smallest}")


def check_shares(owner: object, *names: str) -> None:
    """Checks attributes that are shares of something.

    Raises:
        BadArgument: one of them is not in [0, 1].
    """
    for name in names:
        value = getattr(owner, name)
        check(owner, name, isinstance(value, Real) and 0 <= float(value) <= 1, "from 0 to 1")


def finite(value: object, least: float = -math.inf) -> bool:
    """Whether something is a finite number, and at least so large."""
    return isinstance(value, Real) and math.isfinite(value) and float(value) >= least
