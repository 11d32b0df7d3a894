"""Options that were typed and that nothing which is chosen looks at: they would change nothing, and are refused."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mdm_lightning.errors import UserError

REFERENCE = re.compile(r"\$\{([\w.]+)\}")

_OF_A_SAMPLER = "evaluations that generate, and estimator=policy"

READ_BY = {
    "sampler": _OF_A_SAMPLER,
    "count": _OF_A_SAMPLER,
    "order": _OF_A_SAMPLER,
    "tokens": _OF_A_SAMPLER,
    "eos": _OF_A_SAMPLER,
    "cache": _OF_A_SAMPLER,
    "schedule": "a sampler that is made of parts (sampler=advised has a schedule of its own) or estimator=k_step",
    "orders": "evaluation=advise",
    "advice": "sampler=advised or schedule=advised",
    "scorer": "evaluation=generation, frontier or mauve",
    "estimator": "evaluation=likelihood",
    "prompt": "evaluation=samples",
    "suffix": "evaluation=samples",
    "trajectory": "evaluation=samples",
    "evaluation.steps": "evaluation=advise",
    "evaluation.sequences": "evaluations that have no number of their own, as evaluation.samples.sequences",
}
"""Options that mean something only where what is chosen refers to them, and what does."""


def refuse_idle(
    config: DictConfig, overrides: Sequence[str], *, direct: Collection[str] = (), swept: Collection[str] = ()
) -> None:
    """Refuses what was typed of options to which nothing refers of all that is chosen.

    Args:
        config: of a command.
        overrides: as typed.
        direct: of those options, the ones that the command itself reads.
        swept: groups with several choices, of which another may refer to an option.

    Raises:
        UserError: an option would change nothing.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    if raw.get("compare") is not None:  # which measures the likelihood alone, whatever else evaluation= has
        raw["evaluation"] = {"likelihood": raw["evaluation"].get("likelihood")}
    read = set(direct)
    waiting = [raw[name] for name in raw if name != "hydra" and (name in direct or name not in READ_BY)]
    while waiting:  # what is referred to may refer to others
        found = set(REFERENCE.findall(str(waiting.pop()))) - read
        read |= found
        waiting += [_select(raw, path) for path in found]

    def looked_at(key: str) -> bool:
        return any(_within(key, path) or _within(path, key) for path in read)

    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        option = next((name for name in READ_BY if _within(key, name)), None)
        if option is None or option.partition(".")[0] not in raw or value in ("null", "[]") or looked_at(key):
            continue
        if not any(group not in READ_BY or looked_at(group) for group in {*swept} - {option}):
            raise UserError(f"{override} would change nothing: it is for {READ_BY[option]}")


def _select(raw: Any, path: str) -> Any:
    for name in path.split("."):
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _within(key: str, option: str) -> bool:
    """Whether a key names an option or a part of it."""
    return f"{key}.".startswith(f"{option}.")
