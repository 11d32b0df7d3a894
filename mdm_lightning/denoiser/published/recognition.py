"""Which family published weights are of: those that the modules of ``denoiser/published/families`` define are known."""

import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from mdm_lightning.denoiser.published import families
from mdm_lightning.denoiser.published.family import Family
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError


@cache
def known_families() -> tuple[Family, ...]:
    """Every family, those that take what no other claims at the end."""
    return tuple(sorted(_defined(), key=lambda family: family.takes_the_rest))


def _defined() -> Iterator[Family]:
    for found in pkgutil.iter_modules(families.__path__, f"{families.__name__}."):
        module = import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            here = kind.__module__ == module.__name__  # and not what it imports
            if here and issubclass(kind, Family) and not inspect.isabstract(kind):
                yield kind()


def recognise(weights: Weights) -> Family:
    """The family that the weights are of.

    Raises:
        UserError: none, or several; or each of their blocks is a mixture of experts.
    """
    if any(".experts." in name for name in weights.shapes):
        raise UserError(f"{weights.origin} is a mixture of experts, which is not read here: only dense models are")
    claiming = [family for family in known_families() if family.matches(weights)]
    named = [family for family in claiming if not family.takes_the_rest] or claiming
    if len(named) == 1:
        return named[0]
    if named:
        names = " and ".join(family.name for family in named)
        raise UserError(
            f"{weights.origin} is claimed by several families: {names}; their matches() must tell them apart"
        )
    names = ", ".join(family.name for family in known_families())
    raise UserError(f"{weights.origin} holds weights of none of the known families ({names}), or lacks their {CONFIG}")
