"""The comparison of models: measured on the same sequences with the same masks, so that differences are paired."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from mdm_lightning.checkpoint.find import CHECKPOINTS, LAST
from mdm_lightning.checkpoint.run import Run
from mdm_lightning.data.source import digest
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject, batches
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.report.comparison.curves import Curve, logged_curves

BITS = "bits_per_byte"
"""What is compared where the tokens differ: the text is the same, however it is cut."""

SPEED = "throughput/tokens_per_second"

# Settings that say where a run lies rather than what it is.
_WHERE = {"advice", "cache_dir", "ckpt", "debug", "hydra", "logger", "run_dir"}
# Settings of data that leave the text as it is.
_CUT = {"length", "wrap", "token_limit"}


@dataclass(frozen=True)
class Candidate:
    """A model that is to be compared.

    Attributes:
        name: what to call it.
        subject: the model, and the data to measure it on.
        text: fingerprint of the text behind these data, however it is cut into tokens; None if not known.
        run: that made the model; None if it is not known.
    """

    name: str
    subject: Subject
    text: str | None = None
    run: Run | None = None


class Difference(NamedTuple):
    """A model's number minus the first model's, with its standard error; None where a single sequence was measured."""

    value: float
    stderr: float | None

    @property
    def significant(self) -> bool:
        """Its 95 % interval excludes zero."""
        return self.stderr is not None and abs(self.value) > 1.96 * self.stderr


@dataclass(frozen=True)
class Compared:
    """A model that was measured.

    Attributes:
        name: what it is called.
        parameters: number of them.
        rows: its likelihood.
        step: optimizer steps taken; None if they are not known.
        steps: optimizer steps that its run is to take.
        tokens: that it was trained on, fill included.
        settings: of its run, by dotted name.
        curves: what its run has logged.
    """

    name: str
    parameters: int
    rows: Sequence[Row]
    step: int | None = None
    steps: int | None = None
    tokens: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def row(self, metric: str) -> Row | None:
        return next((row for row in self.rows if row.metric == metric), None)

    @property
    def speed(self) -> float | None:
        """Tokens per second in training, median over the windows of the log."""
        rates = self.curves.get(SPEED)
        return median(rates.values()) if rates else None


@dataclass(frozen=True)
class Comparison:
    """Models beside each other; the others are compared with the first.

    Attributes:
        models: two or more.
        paired: they were measured on the same sequences of the same tokens; else on the same text.
    """

    models: Sequence[Compared]
    paired: bool

    @property
    def metric(self) -> str:
        """What they are compared by: the first that has a score for each sequence; for other tokens, bits per byte."""
        rows = self.models[0].rows
        return next(row.metric for row in rows if (row.scores is not None if self.paired else BITS in row.metric))

    @property
    def units(self) -> str:
        """Of ``metric``."""
        return "bits per byte" if BITS in self.metric else "nats per token"

    def difference(self, model: Compared) -> Difference:
        """A model's ``metric`` minus the first model's: negative is better."""
        row, reference = model.row(self.metric), self.models[0].row(self.metric)
        assert row is not None
        assert reference is not None
        value = row.value - reference.value
        if self.paired and row.scores is not None and reference.scores is not None:
            return Difference(value, standard_error(np.subtract(row.scores, reference.scores).tolist()))
        errors = [one.stderr for one in (row, reference) if one.stderr is not None and math.isfinite(one.stderr)]
        return Difference(value, math.hypot(*errors) if len(errors) == 2 else None)


def compare_candidates(candidates: Sequence[Candidate], likelihood: Likelihood) -> Comparison:
    """Measures the likelihood of each, with the same masks where the sequences are the same.

    All processes of the subjects call this together.

    Raises:
        UserError: there are not two, or neither their sequences nor their texts are the same.
    """
    if len(candidates) < 2:
        raise UserError(f"a comparison needs two models or more, and has {len(candidates)}")
    paired = _comparable(candidates, likelihood)
    return Comparison([_measure(candidate, likelihood) for candidate in candidates], paired)


def short_names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that differ."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for size in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-size:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def run_name(run: Run) -> str:
    """The folder of a run, and the checkpoint unless it is the last one."""
    if run.path.parent.name != CHECKPOINTS:
        return str(run.path)
    folder = run.path.parent.parent
    return str(folder if run.path.name == LAST else folder / run.path.stem)


def text_of(data: Mapping[str, Any]) -> str:
    """Fingerprint of the text that a configuration of data describes, however it is cut into tokens."""
    return digest({key: value for key, value in data.items() if key not in _CUT})


def _comparable(candidates: Sequence[Candidate], likelihood: Likelihood) -> bool:
    """Whether all are measured on the same sequences; else it is the same text.

    Raises:
        UserError: neither.
    """
    first = candidates[0]
    tokens = {candidate.subject.tokenizer.fingerprint for candidate in candidates}
    if len(tokens) == 1 and len({_sequences(candidate.subject, likelihood) for candidate in candidates}) == 1:
        return True
    names = " and ".join(candidate.name for candidate in candidates)
    if first.text is None or any(candidate.text != first.text for candidate in candidates):
        data = ", ".join(candidate.subject.data.name for candidate in candidates)
        raise UserError(
            f"{names} cannot be compared: their data ({data}) are not the same text; choose the data for all"
        )
    for candidate in candidates:
        if candidate.subject.data.bytes_per_position is None:
            raise UserError(
                f"{names} cannot be compared: their sequences differ, and {candidate.name} has no bits per byte"
            )
    return False


def _sequences(subject: Subject, likelihood: Likelihood) -> str:
    """Fingerprint of the sequences that are measured."""
    hashed = hashlib.sha256()
    for unit in batches(subject.validation_size(likelihood.sequences), likelihood.batch_size, subject.first):
        batch = subject.data.validation.__getitems__(unit)
        hashed.update(batch["tokens"].numpy().tobytes() + batch["maskable"].numpy().tobytes())
        hashed.update(str(tuple(batch["tokens"].shape)).encode())
    return hashed.hexdigest()


def _measure(candidate: Candidate, likelihood: Likelihood) -> Compared:
    rows = list(likelihood(candidate.subject))
    parameters = sum(parameter.numel() for parameter in candidate.subject.denoiser.parameters())
    run = candidate.run
    if run is None:
        return Compared(candidate.name, parameters, rows)
    settings = dict(_flat({key: value for key, value in run.config.items() if key not in _WHERE}))
    logged = run.path.parent.name == CHECKPOINTS
    return Compared(
        name=candidate.name,
        parameters=parameters,
        rows=rows,
        step=run.step,
        steps=run.config["trainer"].get("max_steps"),
        tokens=_tokens(run),
        settings=settings,
        curves=logged_curves(run.path.parent.parent) if logged else {},
    )


def _tokens(run: Run) -> int | None:
    sequences, length = run.config.get("training", {}).get("global_batch_size"), run.config["data"].get("length")
    return None if sequences is None or length is None else run.step * sequences * length


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted name; a class by its own name, under the name of what it is."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.rstrip("."), str(value).rpartition(".")[2]
        else:
            yield f"{prefix}{key}", str(value)
