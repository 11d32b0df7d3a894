"""The sampler that `evaluation=advise` found: what `sampler=advised` builds, and for which model it was found."""

import logging
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from mdm_lightning.annotations import fits, words
from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.predicted import advised_model, read_advice
from mdm_lightning.sampling.sampler import Sampler

log = logging.getLogger(__name__)


def advised_sampler(path: str | None, steps: int) -> Sampler:
    """The sampler that an advice file holds for a step budget, with its order, count, schedule and all the rest.

    The file may come from somebody else: what it names is built as other stored configurations are.

    Args:
        path: the ``advice.json`` that evaluation=advise wrote.
        steps: the step budget.

    Raises:
        UserError: there is no such file, it knows nothing of this budget, or it describes no sampler.
    """
    advice = read_advice(path, steps, "sampler=advised")
    if "sampler" not in advice:
        raise UserError(
            f"advice={path} has no sampler for {steps} steps: it was not checked, or a part of it cannot be stored"
        )
    sampler = build(advice["sampler"], Sampler, Path(str(path)))
    if wrong := _misfit(sampler):
        raise UserError(f"advice={path}, sampler for {steps} steps: {wrong}")
    return sampler


def _misfit(built: Any, path: str = "") -> str | None:
    """What is wrong with the first attribute, of something or of a part of it, that is not what it is annotated as."""
    hints = get_type_hints(type(built))
    for field in fields(built):
        name, value = f"{path}{field.name}", getattr(built, field.name)
        if not fits(hints[field.name], value):
            return f"{name} must be {words(hints[field.name])}, got {value}"
        if is_dataclass(value) and (wrong := _misfit(value, f"{name}.")):
            return wrong
    return None


def warn_of_another_model(path: str, name: str, fingerprint: str) -> None:
    """Says so where an advice was found for another model than the one at hand.

    Args:
        path: the ``advice.json``.
        name: of the model at hand.
        fingerprint: of its contents.

    Raises:
        UserError: there is no such advice.
    """
    known = advised_model(path)
    if known is None:
        log.info("advice=%s does not say which model it was found for", path)
    elif known[1] != fingerprint:
        where = "another state of this model" if known[0] == name else f"another model, {known[0]}"
        log.warning("advice=%s was found for %s: what it says may not hold for %s", path, where, name)
