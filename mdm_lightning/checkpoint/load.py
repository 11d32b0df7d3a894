"""Loading what `ckpt=` may name, without a configuration: a run, a published model, or the exact denoiser of a
distribution."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdm_lightning.checkpoint.find import RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.published import PublishedCheckpoint, open_published
from mdm_lightning.checkpoint.run import Run, build_model, describe, load_checkpoint
from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.data.source import PreparedData, Source
from mdm_lightning.data.tasks.base import TaskSource
from mdm_lightning.data.tasks.toy import DistributionSource
from mdm_lightning.data.tokenizer.spec import Given
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import DENOISER, Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.denoiser.lora import Adapter, AllWeights
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


def run_adapter(run: Run) -> Adapter:
    """What a run trains of its denoiser.

    Raises:
        UserError: the run's configuration names something else than an adapter.
    """
    stored = run.config.get("adapter")
    return build(stored, Adapter, run.path) if stored else AllWeights()


def build_run(run: Run, tokenizer: Tokenizer) -> Denoiser:
    """The denoiser of a run, without its weights; of one that began as a published model also without memory, because
    there may be much of it.

    Raises:
        UserError: the run's configuration names something else than a denoiser, or one that its weights do not fit.
    """
    with torch.device("meta") if run.base is not None else nullcontext():
        return build_model(run, tokenizer.vocab_size)


def open_base(run: Run) -> PublishedCheckpoint:
    """The published model that a run began with, with the run's tokenizer.

    Raises:
        UserError: there is none, it cannot be had any more, or its weights are others by now.
    """
    if run.base is None:
        raise UserError(f"{run.path} does not say which published model it began with")
    unstated = _unstated(run.base.get("unstated", {}), run.path)
    published = open_published(run.base["origin"], Tokenizer.from_state(run.tokenizer_state), unstated)
    if published.fingerprint != run.base["fingerprint"]:
        raise UserError(f"{published.name} has other weights than when the run began: restore them")
    return published


def _unstated(known: Any, path: Path) -> Unstated:
    try:
        return Unstated(**known)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: what it says of the model that it began with is {known}") from error


def read_run(
    run: Run,
    tokenizer: Tokenizer,
    device: torch.device,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype | None = None,
) -> Denoiser:
    """The denoiser that a run has trained; adapters are merged into the published model that they adapt.

    Args:
        dtype: of the weights.
        frozen_dtype: of a published model under an adapter; by default the same.

    Raises:
        UserError: the weights do not fit the model that is described, or the published model is not to be had.
    """
    adapter = run_adapter(run)
    if adapter.freezes:
        base, dtype = open_base(run), frozen_dtype or dtype
        denoiser = base.model.read(base.arguments, device, dtype)
        adapter.inject(denoiser)
    else:
        denoiser = build_run(run, tokenizer).to(dtype)
        if run.base is not None:
            denoiser = denoiser.to_empty(device=device)
    _load_weights(denoiser, run.path)
    adapter.merge(denoiser)
    return denoiser.to(device, dtype)


def _load_weights(denoiser: Denoiser, path: Path) -> None:
    stored = load_checkpoint(path)["state_dict"]
    weights = {name.removeprefix(DENOISER): value for name, value in stored.items() if name.startswith(DENOISER)}
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    try:
        missing, unknown = denoiser.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit the model described there: {error}") from error
    missing = trained.intersection(missing)
    if missing or unknown:
        raise UserError(f"the weights in {path} do not fit the model described there: {sorted(missing) + unknown}")
