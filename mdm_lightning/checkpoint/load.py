"""Loading what `ckpt=` may name, without a configuration: a run, a published model, or the exact denoiser of a
distribution."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mdm_lightning.checkpoint.find import RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.published import PublishedCheckpoint, open_published
from mdm_lightning.checkpoint.run import Run, describe, read_run
from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.data.source import PreparedData, Source
from mdm_lightning.data.tasks.base import TaskSource
from mdm_lightning.data.tasks.toy import DistributionSource
from mdm_lightning.data.tokenizer.spec import Given
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.denoiser.published.family import NOTHING, Unstated
from mdm_lightning.errors import UserError

LONGEST = 1024
"""Positions per sequence where neither data nor a run say how many; published models may accept very many."""


@dataclass(frozen=True)
class Oracle:
    """The exact denoiser of a distribution, where a checkpoint would be."""

    source: DistributionSource
    step: int = 0

    @property
    def name(self) -> str:
        """What stands in the place of a checkpoint's name."""
        return f"the exact denoiser of {self.source.distribution.name}"

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint


Origin = Run | PublishedCheckpoint | Oracle


@dataclass(frozen=True)
class Loaded:
    """A denoiser in evaluation mode, and what is known of it.

    Attributes:
        name: what it was loaded by.
        denoiser: on its device.
        tokenizer: the one that it was trained with.
        length: positions of the sequences that it was trained on; at most ``LONGEST`` where that is not known.
        device: where the denoiser is.
        fingerprint: of the checkpoint's contents.
        prepare: finds the data that a run was trained on, or builds them; None where they are not known.
        run: that made it; None for others.
    """

    name: str
    denoiser: Denoiser
    tokenizer: Tokenizer
    length: int
    device: torch.device
    fingerprint: str
    prepare: Callable[[], PreparedData] | None = None
    run: Run | None = None


def load(
    name: str | Path | DistributionSource,
    *,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    unstated: Unstated = NOTHING,
) -> Loaded:
    """A run's averaged weights, a published model, or the exact denoiser of a distribution.

    Args:
        name: ``last``, a run folder, a ``.ckpt`` file, a published model's folder, file or name on the hub, or a
            distribution.
        tokenizer: for published weights that bring none along.
        device: by default a GPU if there is one.
        dtype: of the weights; float32 by default.
        revision: of a model on the hub.
        unstated: what a published model's files do not say.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(name, DistributionSource):
        return _load_distribution(name, place)
    wanted = str(name) if revision is None else f"{name}@{revision}"
    if names_published(wanted):
        published = open_published(wanted, tokenizer, unstated)
        denoiser = published.model.read(published.arguments, place, dtype or torch.float32)
        length = min(denoiser.length, LONGEST)
        return Loaded(published.name, denoiser, published.tokenizer, length, place, published.fingerprint)
    if revision is not None or tokenizer is not None:
        raise UserError(f"{name} is a run, which has its tokenizer and no revisions: leave tokenizer and revision out")
    return _load_run(describe(find_checkpoint(wanted, RUNS)), place, dtype or torch.float32)


def _load_run(run: Run, device: torch.device, dtype: torch.dtype) -> Loaded:
    tokenizer = Tokenizer.from_state(run.tokenizer_state)
    denoiser = read_run(run, tokenizer, device, dtype).eval()
    source = build(run.config["data"], Source, run.path)
    own = isinstance(source, TaskSource | DistributionSource)

    def prepare() -> PreparedData:
        return source.prepare(None if own else Given(tokenizer), default_cache())

    return Loaded(run.name, denoiser, tokenizer, source.length, device, run.fingerprint, prepare, run)


def _load_distribution(source: DistributionSource, device: torch.device) -> Loaded:
    denoiser, oracle = exact_denoiser(source).to(device).eval(), Oracle(source)
    prepared = lambda: source.prepare(None, default_cache())  # noqa: E731
    return Loaded(oracle.name, denoiser, source.tokenizer, source.length, device, oracle.fingerprint, prepared)


def default_cache() -> Path:
    """Where prepared data are kept: ``MDM_CACHE``, or a folder in the user's cache."""
    return Path(os.environ.get("MDM_CACHE") or Path.home() / ".cache" / "mdm_lightning")


def exact_denoiser(source: DistributionSource) -> ExactDenoiser:
    """The exact conditionals of a distribution, in float64."""
    distribution = source.distribution
    return ExactDenoiser(distribution.sequences, distribution.probabilities, distribution.vocab_size)
