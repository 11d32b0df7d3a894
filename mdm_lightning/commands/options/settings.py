"""The settings that belong to no object: what the commands themselves read, with their types and ranges.

Everything else in a configuration is an argument of something that is built, and its constructor is the schema.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from mdm_lightning.arguments import check, check_numbers, finite
from mdm_lightning.checkpoint.find import refuse_missing_checkpoint
from mdm_lightning.data.hub import refuse_missing_tokenizer
from mdm_lightning.data.text.corpus import refuse_missing
from mdm_lightning.errors import UserError

MOST_WORKERS = 256
"""Data loading processes per device; more would be a slip of the finger."""

SEEDS = 2**32
"""Lightning's, NumPy's and torch's generators all take seeds below."""

INSTANCES = 2**32
"""Of data or generated samples; more would be a slip of the finger."""


READ_OF_TRAINER = ("accelerator", "devices", "num_nodes", "precision", "enable_progress_bar")
"""What evaluate.py and sweep.py read of ``trainer``."""

SET_ELSEWHERE = {
    "accumulate_grad_batches": "training.global_batch_size",
    "val_check_interval": "training.validate_every",
    "callbacks": "training.callbacks",
    "logger": "logger",
    "default_root_dir": "run_dir",
}
"""Arguments of Lightning's Trainer that train.py sets itself, and the options that decide."""


class Component:
    """Stands for something that is built: its schema is its own constructor's."""


@dataclass(frozen=True)
class Training:
    """``training``: see conf/training/default.yaml."""

    global_batch_size: int
    batch_size: int
    ema: float | None
    ema_warmup: bool
    compile: bool
    validate_every: int
    validation_sequences: int | None
    log_every: int
    save_every: int
    keep_best: int
    samples: int
    workers: int
    masking: Component
    schedule: Component
    times: Component
    validation_masking: Component
    watch: Component | None
    callbacks: Mapping[str, Component] = field(default_factory=dict)
    attention_annealing: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, global_batch_size=1, batch_size=1, validate_every=1, validation_sequences=1, log_every=1)
        check_numbers(self, save_every=1, keep_best=-1, samples=0, workers=0, attention_annealing=0)
        check(self, "workers", self.workers <= MOST_WORKERS, f"at most {MOST_WORKERS}")
        check(self, "ema", self.ema is None or 0 <= self.ema < 1, "a decay in [0, 1) or null")


@dataclass(frozen=True)
class TrainerLimits:
    """Of ``trainer``, whose schema is Lightning's Trainer: numbers that it would take, and go astray with."""

    max_steps: int = 1
    gradient_clip_val: float | None = None
    num_nodes: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, max_steps=1, num_nodes=1)
        clip = self.gradient_clip_val
        check(self, "gradient_clip_val", clip is None or finite(clip, 0), "finite and not negative, or null")


@dataclass(frozen=True)
class Evaluating:
    """``evaluation``, apart from the evaluations in it: what several of them share."""

    batch_size: int
    sequences: int | None
    first: int
    steps: Sequence[int]

    def __post_init__(self) -> None:
        check_numbers(self, batch_size=1, sequences=1, first=0)
        check(self, "first", self.first < INSTANCES, f"below {INSTANCES:,}")


@dataclass(frozen=True)
class Benchmarking(Evaluating):
    """The same where evaluation=lm_eval brings its options along."""

    tasks: Sequence[str] = ()
    limit: int | None = None
    num_fewshot: int | None = None
    generation_length: int | None = None
    max_length: int = 2
    draws: int = 1
    chat: bool = False
    system: str | None = None
    add_bos: bool = False
    task_folders: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    allow_code_execution: bool = False
    program_seconds: float = 1.0


@dataclass(frozen=True)
class Sweeping:
    """``sweep``: see conf/sweep.yaml."""

    dir: str
    alpha: Sequence[float]
    beta: Sequence[float]
    steps: Sequence[int | None]
    baselines: Sequence[str]
    limit: int
    refine: int
    full: int | None
    race: bool
    race_first: int
    race_level: float
    prune: Literal["predicted"] | None
    keep: int
    metric: str | None
    profile: Component | None
    paths: Component
    stage: str

    def __post_init__(self) -> None:
        check_numbers(self, limit=1, refine=0, full=1, race_first=2, keep=1)
        check(self, "race_level", finite(self.race_level) and 0 < self.race_level < 1, "between 0 and 1")
        check(self, "prune", self.prune is None or self.profile is not None, "null where sweep.profile=null")
        if self.race:
            check(self, "refine", self.refine == 0, "0 where sweep.race=true confirms its winner itself")
            check(self, "limit", self.limit >= self.race_first, "at least sweep.race_first where sweep.race=true")
            check(self, "full", self.full is None or self.full >= 2, "at least 2 where sweep.race=true")
        for name in ("alpha", "beta", "steps", "baselines"):
            values = getattr(self, name)
            check(self, name, len(set(values)) == len(values), "a list without repetitions")
        for name in ("alpha", "beta"):
            values = getattr(self, name)
            good = len(values) > 0 and all(finite(value) and value > 0 for value in values)
            check(self, name, good, "a list of positive numbers, at least one")
        good = len(self.steps) > 0 and all(steps is None or steps >= 1 for steps in self.steps)
        check(self, "steps", good, "a list of numbers from 1 on, at least one")


@dataclass(frozen=True)
class PublishedOptions:
    """What is said of a published model."""

    mask_id: int | None
    shifted: bool | None
    block_size: int | None
    autoregressive: bool | None = None

    def __post_init__(self) -> None:
        check_numbers(self, mask_id=0, block_size=1)


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command reads, beside its groups.

    Attributes:
        count, order, tokens, eos, cache: parts of the sampler, where it is made of parts.
    """

    ckpt: str | None
    published: PublishedOptions
    advice: str | None
    seed: int
    run_dir: str
    cache_dir: str
    debug: bool
    schedule: Component
    sampler: Component
    trainer: Component
    logger: Mapping[str, Component]
    count: Component | None = None
    order: Component | None = None
    tokens: Component | None = None
    eos: Component | None = None
    cache: Component | None = None

    def __post_init__(self) -> None:
        check_numbers(self, seed=0)
        check(self, "seed", self.seed < SEEDS, f"below {SEEDS}")


@dataclass(frozen=True, kw_only=True)
class TrainCommand(Common):
    """The root of train.py's configuration."""

    tokenizer: Component
    data: Component
    training: Training
    optimizer: Component
    lr_schedule: Component
    model: Component
    adapter: Component


@dataclass(frozen=True, kw_only=True)
class MeasuringCommand(Common):
    """The root of evaluate.py's configuration.

    Attributes:
        orders: for evaluation=advise to compare.
        sweep: what an experiment has for sweep.py.
    """

    estimator: Component
    scorer: Component
    evaluation: Evaluating
    prompt: str | None
    suffix: str | None
    trajectory: bool
    orders: Mapping[str, Component] = field(default_factory=dict)
    data: Component | None = None
    tokenizer: Component | None = None
    export: str | None = None
    compare: Sequence[str] | None = None
    sweep: Any = None


@dataclass(frozen=True, kw_only=True)
class SweepCommand(MeasuringCommand):
    """The root of sweep.py's configuration."""

    sweep: Sweeping | None = None


def parse_precision(precision: object) -> tuple[str, bool]:
    """What ``trainer.precision`` says: the bits to compute in (16, bf16, 32, 64), and whether weights stay in float32.

    Raises:
        UserError: there is no such precision.
    """
    bits, _, kind = str(precision).partition("-")
    if bits not in ("16", "bf16", "32", "64") or kind not in ("", "true", "mixed"):
        raise UserError(f"trainer.precision={precision}: use 32-true, bf16-mixed, bf16-true, 16-mixed or 64-true")
    return bits, kind == "mixed" or (kind == "" and bits in ("16", "bf16"))


def command(config: Mapping[Any, Any]) -> type[Common]:
    """Which command a configuration is for."""
    if "evaluation" not in config:
        return TrainCommand
    return SweepCommand if "stage" in (config.get("sweep") or {}) else MeasuringCommand


def is_schema(kind: Any) -> bool:
    """Whether an annotation is one of the above."""
    return isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == __name__


def holds_objects(schema: type[Any]) -> bool:
    """Whether a node may hold objects of any name beside its settings."""
    return issubclass(schema, Evaluating)


def names(schema: type[Any]) -> list[str]:
    """The settings of a node."""
    return [setting.name for setting in fields(schema)]


def _refuse_checkpoint(ckpt: str) -> None:
    if ckpt != "auto":  # of run_dir=, if it has one
        refuse_missing_checkpoint(ckpt)


def _refuse_advice(path: str) -> None:
    file = Path(path).expanduser()
    if not file.exists():
        raise UserError(f"cannot read advice={path}: No such file or directory")
    if file.is_dir():
        raise UserError(f"advice={path} is a folder: give the file, advice={Path(path) / 'advice.json'}")


REFUSALS: Mapping[str, Callable[[str], None]] = {
    "ckpt": _refuse_checkpoint,
    "advice": _refuse_advice,
    "scorer.ckpt": lambda ckpt: refuse_missing_checkpoint(ckpt, option="scorer.ckpt"),
    "data.path": lambda path: refuse_missing(path, "data.path"),
    "data.validation_path": lambda path: refuse_missing(path, "data.validation_path"),
    "tokenizer.name_or_path": refuse_missing_tokenizer,
}
"""Options that name something on the disk, each with what raises a UserError where nothing is there."""
