"""mdm-lightning: train, evaluate and schedule masked diffusion language models.

    import mdm_lightning as mdm

What is public is listed here and nowhere else: ``load`` and the ``Model`` that it returns, ``compare``, and the
namespaces ``schedules``, ``counts``, ``orders``, ``samplers``, ``denoisers``, ``evaluations`` and ``scorers``. Each is
imported when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from mdm_lightning.api import counts, denoisers, evaluations, orders, samplers, schedules, scorers
    from mdm_lightning.api.model import Model, compare, load

__all__ = [
    "Model",
    "compare",
    "counts",
    "denoisers",
    "evaluations",
    "load",
    "orders",
    "samplers",
    "schedules",
    "scorers",
]

_OF_MODEL = ("Model", "compare", "load")


def __getattr__(name: str) -> Any:
    if name in _OF_MODEL:
        return getattr(import_module("mdm_lightning.api.model"), name)
    if name in __all__:
        return import_module(f"mdm_lightning.api.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
