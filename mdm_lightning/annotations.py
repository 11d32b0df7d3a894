"""What constructors take: names and annotations of their arguments, whether a value fits one, and one in words."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

TARGET = "_target_"

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}


def fits(hint: Any, value: Any) -> bool:
    """Whether a value may be given where ``hint`` is annotated, strictly: true is no number.

    What is still to be built, a mapping with a ``_target_``, stands for any class.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(choice, value) for choice in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if is_object(value):
        return hint not in KINDS or hint is str  # a text may be built, too
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hint in KINDS:
        return isinstance(value, hint)
    base = origin or hint
    if base is tuple:
        return _is_list(value) and _fit_tuple(arguments, value)
    if isinstance(base, type) and issubclass(base, Sequence):
        return _is_list(value) and all(fits(arguments[0], item) for item in value if arguments)
    if isinstance(base, type) and issubclass(base, Mapping):
        return isinstance(value, Mapping) and all(fits(arguments[1], item) for item in value.values() if arguments)
    own = isinstance(hint, type) and hint.__module__.startswith("mdm_lightning.")
    return not own or hint in type(value).__mro__  # not isinstance, which protocols may not be asked for


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _fit_tuple(hints: Sequence[Any], value: Sequence[Any]) -> bool:
    if len(hints) == 2 and hints[1] is ...:
        return all(fits(hints[0], item) for item in value)
    return len(hints) == len(value) and all(fits(hint, item) for hint, item in zip(hints, value, strict=True))


def is_object(value: Any) -> bool:
    """Whether a value of a configuration will be built."""
    return isinstance(value, Mapping) and TARGET in value


@cache
def located(target: str) -> Any:
    """The class or function of a dotted name."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


@cache
def arguments(target: Callable[..., Any]) -> tuple[Mapping[str, Any], bool]:
    """Names and annotations of what a class or function takes, and whether it takes other names as well."""
    parameters = inspect.signature(target).parameters.values()
    try:
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target)
    except (NameError, TypeError, AttributeError):  # annotations of another package that its users cannot look up
        hints = {}
    plain = {p.name: hints.get(p.name, Any) for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return plain, any(p.kind == p.VAR_KEYWORD for p in parameters)


def needed(target: Callable[..., Any]) -> list[str]:
    """Names of what it cannot do without."""
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def words(hint: Any) -> str:
    """An annotation in words."""
    return " or ".join(dict.fromkeys(_words(hint)))


def _words(hint: Any) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for choice in sorted(arguments, key=lambda choice: choice is types.NoneType):
            yield from _words(choice)
    elif origin is Literal:
        yield from map(str, arguments)
    elif hint in KINDS:
        yield KINDS[hint]
    elif origin is tuple and ... not in arguments:
        yield f"a list of {len(arguments)}: " + ", ".join(map(words, arguments))
    elif isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        yield f"names with {words(arguments[1])} each" if arguments else "a mapping"
    elif isinstance(origin or hint, type) and issubclass(origin or hint, Sequence):
        yield f"a list, each {words(arguments[0])}" if arguments else "a list"
    else:
        yield "an object with a _target_, as the files in conf/ have"
