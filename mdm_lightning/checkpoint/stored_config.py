"""What a stored configuration may have built: the one place that decides it.

Checkpoints and sweep folders come from other people too, and Hydra would call whatever their configurations name, or
what an interpolation in them resolves to. So none of it is given to Hydra. A stored configuration is plain, resolved
containers, which are copied; and what is built from them is built here, from classes that lie in the folder of the
package where their kind lives, or in modules that the user has said to trust.
"""

import importlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from mdm_lightning.data.source import Source
from mdm_lightning.data.text.split import Split
from mdm_lightning.data.tokenizer.spec import TokenizerSpec
from mdm_lightning.denoiser.attention import AttentionPattern
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.lora import Adapter
from mdm_lightning.diffusion import masking, timesteps
from mdm_lightning.diffusion.blockwise import Blockwise
from mdm_lightning.diffusion.fitting import Fitting
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.cache import CachePolicy
from mdm_lightning.sampling.count import AdaptiveCount, PlannedCount
from mdm_lightning.sampling.eos import EosRule
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.order import RevealOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

TRUST = "MDM_TRUST"
"""Environment variable with the modules, separated by commas, whose classes a stored configuration may name."""

_OF_SAMPLERS = (PlannedCount, AdaptiveCount, RevealOrder, EosRule, CachePolicy, TokenSampler, Blocks, Guidance)

PARTS = (Denoiser, AttentionPattern, Adapter, Source, Split, TokenizerSpec, MaskSchedule, *_OF_SAMPLERS)
"""What may stand inside of something else that is built."""

# What conf/ chooses of Lightning. Its callbacks and plugins are many, and some write or run what they are told.
_OF_LIGHTNING = (
    "lightning.Trainer",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.loggers.WandbLogger",
)

# The functions of ours that build something, and what.
_BUILDING = {
    "mdm_lightning.evaluation.advice.predicted.advised_schedule": MaskSchedule,
    "mdm_lightning.checkpoint.advice.advised_sampler": Sampler,
}

TARGET = "_target_"
_OF_HYDRA = ("_convert_", "_recursive_", "_partial_", "_args_")
_MOST = 200_000  # values in a configuration
_DEEPEST = 64

# Where modules lay before version 0.2, which the checkpoints of that time name.
_MOVED = {
    "mdm_lightning.data.countdown": "mdm_lightning.data.tasks.countdown",
    "mdm_lightning.data.split": "mdm_lightning.data.text.split",
    "mdm_lightning.data.sudoku": "mdm_lightning.data.tasks.sudoku",
    "mdm_lightning.data.text": "mdm_lightning.data.text.sources",
    "mdm_lightning.data.tokenizer_spec": "mdm_lightning.data.tokenizer.spec",
    "mdm_lightning.data.toy": "mdm_lightning.data.tasks.toy",
    "mdm_lightning.evaluation.advice": "mdm_lightning.evaluation.advice.predicted",
    "mdm_lightning.evaluation.likelihood.advice": "mdm_lightning.evaluation.advice.predicted",
}

_typed: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())

T = TypeVar("T")


@contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Within it, stored configurations may also name classes of these modules: what was typed itself is trusted."""
    token = _typed.set(frozenset(modules))
    try:
        yield
    finally:
        _typed.reset(token)


def plain_copy(config: Any, origin: object) -> Any:
    """A copy of a stored configuration, of dicts, lists, texts, numbers, truth values and None alone.

    Args:
        origin: where it is stored, for messages.

    Raises:
        UserError: it holds anything else, or something that would be resolved: stored configurations are resolved.
    """
    left = [_MOST]

    def copy(node: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > _DEEPEST:
            raise UserError(f"{origin}: its configuration is too large or too deep to be one")
        if isinstance(node, str):
            if "${" in node:
                raise UserError(
                    f"{origin}: its configuration holds {node[:60]!r}, which is not resolved; it may be made to run "
                    "code, and is not read"
                )
            return str(node)
        if node is None or type(node) in (bool, int, float):
            return node
        if isinstance(node, Mapping):
            copied = {_key(key, origin): copy(value, depth + 1) for key, value in node.items()}
            return copied | ({TARGET: _today(copied[TARGET])} if TARGET in copied else {})
        if isinstance(node, list | tuple):
            return [copy(value, depth + 1) for value in node]
        raise UserError(f"{origin}: its configuration holds a {type(node).__name__}, where plain values should be")

    return copy(config, 0)


def _today(target: Any) -> Any:
    """What a component is called now."""
    module, _, name = str(target).rpartition(".")
    return f"{_MOVED[module]}.{name}" if module in _MOVED else target


def _key(key: Any, origin: object) -> Any:
    if type(key) not in (str, int) or "${" in str(key):
        raise UserError(f"{origin}: its configuration has the key {str(key)[:60]!r}, which is no name")
    return key


def build(config: Any, kind: type[T], origin: object, **arguments: Any) -> T:
    """What a stored configuration describes, built from exactly the values that were checked.

    Args:
        kind: what it has to be: Denoiser, Source, ...
        origin: where it is stored, for messages.
        arguments: more arguments of the constructor, instead of stored ones of the same name.

    Raises:
        UserError: it names something else, of another place than this package and the modules that are trusted, or
            its values do not fit.
    """
    config = plain_copy(config, origin)
    if not isinstance(config, dict) or TARGET not in config:
        raise UserError(f"{origin}: its configuration describes no {kind.__name__}")
    return _build(config, (kind,), origin, arguments)


def check(config: Any, kind: type[T], origin: object) -> dict[str, Any]:
    """The checked copy of a configuration from which ``build`` would build, without building it.

    Raises:
        UserError: as ``build``.
    """
    config = plain_copy(config, origin)
    if not isinstance(config, dict) or TARGET not in config:
        raise UserError(f"{origin}: its configuration describes no {kind.__name__}")
    _check(config, (kind,), origin)
    return config


def check_run(config: Any, origin: object) -> dict[str, Any]:
    """The checked copy of a whole run's configuration: what a run may be gone on with.

    All that it names is a component that conf/ could have chosen for a training, or of a module that is trusted.

    Raises:
        UserError: it names something else.
    """
    from mdm_lightning.training import (  # they take seconds
        dashboards,
        loggers,
        muon,
        optimizer,
        schedule_watch,
        strategy,
    )

    kinds = (
        *PARTS,
        *(masking.IndependentMasking, masking.CountMasking, masking.StepMasking, masking.NextToken),
        *(Blockwise, Fitting),
        *(timesteps.UniformTimes, timesteps.StratifiedTimes, timesteps.BellTimes),
        Sampler,
        *(muon.Muon, optimizer.AdamW, optimizer.Constant, optimizer.Cosine, optimizer.Linear),
        *(dashboards.TensorBoard, loggers.CsvLog, loggers.MlflowLog, loggers.WandbLog),
        *(strategy.FullySharded, schedule_watch.ScheduleWatch),
    )
    copied = plain_copy(config, origin)
    if not isinstance(copied, dict):
        raise UserError(f"{origin}: its configuration is none")
    _check(copied, kinds, origin, kinds)
    return copied


def named_class(config: Mapping[str, Any], kind: type[T], origin: object) -> type[T]:
    """The class that a stored configuration names; not for schedules, which a function may build.

    Raises:
        UserError: as ``build``.
    """
    return _maker(config.get(TARGET), (kind,), origin)


def _build(node: Any, kinds: tuple[type, ...], origin: object, arguments: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_build(value, PARTS, origin, {}) for value in node]
    if not isinstance(node, dict):
        return node
    maker = _maker_of(node, kinds, origin)
    values = {key: _build(value, PARTS, origin, {}) for key, value in node.items() if key != TARGET}
    if maker is None:
        return values
    try:
        return maker(**{**values, **arguments})
    except (TypeError, ValueError) as error:
        raise UserError(f"{origin}: {node[TARGET]} cannot be built as it is described there: {error}") from error


def _check(node: Any, kinds: tuple[type, ...], origin: object, parts: tuple[type, ...] = PARTS) -> None:
    if isinstance(node, dict) and not (parts is not PARTS and node.get(TARGET) in _OF_LIGHTNING):
        _maker_of(node, kinds, origin)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _check(value, parts, origin, parts)


def _maker_of(node: Mapping[Any, Any], kinds: tuple[type, ...], origin: object) -> Any:
    """What builds from a dict; None if it is merely a dict."""
    special = [key for key in _OF_HYDRA if key in node]
    if special:
        raise UserError(f"{origin}: its configuration has {special[0]}, which is not followed in what is stored")
    return _maker(node[TARGET], kinds, origin) if TARGET in node else None


def _maker(target: Any, kinds: tuple[type, ...], origin: object) -> Any:
    """The class of one of the kinds that a target names, or a function of ours that builds one."""
    module, _, name = str(target).rpartition(".")
    if isinstance(target, str) and _BUILDING.get(target) in kinds:
        return getattr(importlib.import_module(module), name)  # draws, and so imports matplotlib
    own = any(module.startswith(f"{_folder(kind)}.") for kind in kinds)
    trusted = _is_trusted(module)
    if not (isinstance(target, str) and (own or trusted)):
        raise _refused(target, kinds, origin)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"{origin} names {target}, which is not installed here: {error}") from error
    # As it is defined, not as something else knows it: our modules hold names of other packages too.
    defined = getattr(found, "__module__", None)
    in_place = defined == module or (trusted and isinstance(defined, str) and _is_trusted(defined))
    if not (inspect.isclass(found) and in_place and not inspect.isabstract(found)):
        raise _refused(target, kinds, origin)
    # In what is trusted, parts may be of any class.
    if not issubclass(found, kinds) and not (trusted and len(kinds) > 1):
        raise _refused(target, kinds, origin)
    return found


def _refused(target: Any, kinds: tuple[type, ...], origin: object) -> UserError:
    wanted = kinds[0].__name__ if len(kinds) == 1 else "part of one"
    package = str(target)[:100].partition(".")[0]
    hint = "" if package == "mdm_lightning" else f"; if it is yours, or you trust it, set {TRUST}={package}"
    return UserError(
        f"{origin} names {str(target)[:100]}, which is not built: it is no {wanted} of mdm_lightning{hint}"
    )


def _folder(kind: type) -> str:
    """The package in which a kind and its siblings lie."""
    return kind.__module__.rpartition(".")[0]


def _is_trusted(module: str) -> bool:
    trusted = {*_typed.get(), *(name.strip() for name in os.environ.get(TRUST, "").split(","))}
    return any(name and f"{module}.".startswith(f"{name}.") for name in trusted)
