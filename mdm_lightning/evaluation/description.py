"""How something was sampled: in the few words that a table has room for, and as values that build it again."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from mdm_lightning.sampling.cache import NoCache
from mdm_lightning.sampling.eos import EosFree
from mdm_lightning.sampling.sampler import Sampler


def describe_sampler(sampler: Sampler, steps: int | None = None) -> dict[str, str | int | float]:
    """Schedule, count, order and step budget, and what else departs from plain sampling.

    Args:
        steps: step budget of the calls, where it is not the sampler's own.
    """
    budget = sampler.steps if steps is None else steps
    settings: dict[str, str | int | float] = {
        "schedule": describe(sampler.schedule),
        "count": describe(sampler.count),
        "order": describe(sampler.order),
        "steps": "one per position" if budget is None else budget,
    }
    tokens = sampler.tokens
    if tokens.temperature != 1:
        settings["temperature"] = tokens.temperature
    if tokens.top_k is not None:
        settings["top_k"] = tokens.top_k
    if tokens.top_p is not None:
        settings["top_p"] = tokens.top_p
    if tokens.banned:
        settings["banned"] = _value(tokens.banned)
    if not isinstance(sampler.eos, EosFree):
        settings["eos"] = describe(dataclasses.replace(sampler.eos, early_end=False))
    if sampler.eos.early_end or sampler.ending is not None:
        settings["early_end"] = "yes"
    if not isinstance(sampler.cache, NoCache):
        settings["cache"] = describe(sampler.cache)
    if sampler.tempered_evidence:
        settings["evidence"] = "tempered"
    if sampler.blocks.length is not None:
        settings["block_length"] = sampler.blocks.length
    if sampler.guidance.scale != 0:
        settings["guidance"] = sampler.guidance.scale
    return settings


def told_apart(samplers: Sequence[Sampler]) -> list[str]:
    """Names of samplers: their orders, and where some have the same one, what else departs from plain sampling."""
    orders = [describe(sampler.order) for sampler in samplers]
    if len(set(orders)) == len(orders):
        return orders
    names = []
    for order, sampler in zip(orders, samplers, strict=True):
        settings = describe_sampler(sampler).items()
        rest = [f"{key} {value}" for key, value in settings if key not in ("schedule", "count", "order", "steps")]
        names.append(f"{order} ({', '.join(rest)})" if rest else order)
    return names


def describe(component: Any) -> str:
    """The name of a component's class, and its parameters: "Linear", "Beta(0.9, 0.3)", "Confidence".

    Parameters are those of the constructor that the component keeps under the same name; a plain class that keeps them
    otherwise can say what it is by a ``__repr__`` of its own. What is switched off, a parameter whose default is
    nothing (0, None, empty) and that has it, is left out.
    """
    kind = type(component)
    if not dataclasses.is_dataclass(kind) and kind.__repr__ is not object.__repr__:
        return repr(component)
    name = kind.__name__.removesuffix("Schedule")
    shown = []
    for parameter in inspect.signature(kind).parameters.values():
        value = getattr(component, parameter.name, parameter.default)
        off = not parameter.default and value == parameter.default
        if value is not parameter.empty and not off:
            shown.append(_value(value))
    return f"{name}({', '.join(shown)})" if shown else name


def configuration(component: Any) -> Any:
    """What builds an equal component again, as plain values: its class under ``_target_``, and the parameters of its
    constructor, which it keeps under the same names.

    Raises:
        ValueError: a component does not keep a parameter.
    """
    if component is None or isinstance(component, str | bool | int | float):
        return component
    if isinstance(component, Sequence):
        return [configuration(part) for part in component]
    kind = type(component)
    plain: dict[str, Any] = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
    for name in inspect.signature(kind).parameters:
        if not hasattr(component, name):
            raise ValueError(f"{kind.__name__} does not keep its parameter {name}")
        plain[name] = configuration(getattr(component, name))
    return plain


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return describe(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
