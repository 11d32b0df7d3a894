"""The checkpoints of runs: what they say of their run, and the denoiser in them; what does not fit is refused."""

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mdm_lightning.checkpoint.published import PublishedCheckpoint, open_published
from mdm_lightning.checkpoint.stored_config import build, named_class, plain_copy
from mdm_lightning.data.source import digest
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import DENOISER, Denoiser, oversized
from mdm_lightning.denoiser.lora import Adapter, AllWeights
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.published.weight_files import first_sentence, refuse_hollow
from mdm_lightning.errors import UserError

# Keys of the model's configuration that change neither its parameters nor what it computes.
INCIDENTAL = {"activation_checkpointing"}


@dataclass(frozen=True)
class Run:
    """What a checkpoint knows of the run that made it.

    Attributes:
        path: the checkpoint file.
        step: optimizer steps taken.
        config: the resolved configuration, plain containers.
        tokenizer: fingerprint of the tokenizer.
        tokenizer_state: the tokenizer itself (Tokenizer.from_state).
        data: fingerprint of the training data.
        fingerprint: of the checkpoint's contents.
        base: the published model that the run began with, if it did.
        shapes: of the denoiser's stored weights, by name.
        choices: of configuration groups, as they were typed; None if that is not known.
    """

    path: Path
    step: int
    config: dict[str, Any]
    tokenizer: str
    tokenizer_state: dict[str, str]
    data: str
    fingerprint: str
    base: Mapping[str, str] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    choices: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """What ``ckpt=`` calls it."""
        return str(self.path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, read without executing anything it contains.

    Raises:
        UserError: it cannot be read, or is not one of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or hostile file makes the unpickler raise anything
        raise UserError(f"{path} is not a readable checkpoint ({first_sentence(error)})") from error
    if not isinstance(checkpoint, dict) or "mdm_lightning" not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of mdm-lightning: it says nothing of its configuration")
    weights = checkpoint["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path} holds something else than named tensors as its weights")
    refuse_hollow(path, weights)
    return checkpoint


def describe(path: Path) -> Run:
    """What the checkpoint at ``path`` knows of its run.

    Raises:
        UserError: it cannot be read, or is not one of ours.
    """
    checkpoint = load_checkpoint(path)
    known = plain_copy(checkpoint["mdm_lightning"], path)
    _check_known(known, checkpoint.get("global_step"), path)
    return Run(
        path=path.resolve(),
        step=checkpoint["global_step"],
        config=known["config"],
        tokenizer=known["tokenizer"],
        tokenizer_state=known["tokenizer_state"],
        data=known["data"],
        fingerprint=_contents(path),
        base=known.get("base"),
        shapes={
            name.removeprefix(DENOISER): tuple(value.shape)
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(DENOISER)
        },
        choices=known.get("choices"),
    )


def _check_known(known: Any, step: Any, path: Path) -> None:
    """Raises:
    UserError: what a checkpoint says of its run is not of the form in which this package writes it.
    """
    fits = (
        isinstance(known, dict)
        and type(step) is int
        and all(isinstance(known.get(key), str) for key in ("tokenizer", "data"))
        and isinstance(known.get("tokenizer_state"), dict)
        and (known.get("base") is None or _names_a_model(known["base"]))
        and isinstance(known.get("config"), dict)
        and all(isinstance(known["config"].get(group), dict) for group in ("model", "data", "trainer"))
    )
    if not fits:
        raise UserError(f"{path} is not a checkpoint of mdm-lightning, or damaged: it does not describe its run")


def _names_a_model(base: Any) -> bool:
    return isinstance(base, dict) and all(isinstance(base.get(key), str) for key in ("origin", "fingerprint"))


def build_model(run: Run, vocab_size: int) -> Denoiser:
    """The denoiser that a run's configuration describes, without its weights.

    Raises:
        UserError: the configuration names something else than a denoiser, or describes a larger one than the
            checkpoint has weights for: it would be built in vain, or fill the memory.
    """
    model = run.config["model"]
    kind = named_class(model, Denoiser, run.path)
    larger = oversized({**model, "vocab_size": vocab_size}, kind.sizes(run.shapes.get))
    if larger:
        raise UserError(f"{run.path} describes a larger model than it has weights for: {larger}")
    return build(model, Denoiser, run.path, vocab_size=vocab_size)


def _contents(path: Path) -> str:
    """A fingerprint of a checkpoint, from the checksums that its archive holds: nothing is read twice."""
    with zipfile.ZipFile(path) as archive:
        # Without the first folder, which is named after the file.
        entries = [(entry.filename.partition("/")[2], entry.CRC, entry.file_size) for entry in archive.infolist()]
    return digest(sorted(entries))


def metadata(
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    data: str,
    base: Mapping[str, str] | None,
    choices: Sequence[str] = (),
) -> dict[str, Any]:
    """What every checkpoint of a run carries: enough to use it without its run folder."""
    return {
        "base": None if base is None else dict(base),
        "config": dict(config),
        "choices": list(choices),
        "tokenizer": tokenizer.fingerprint,
        "tokenizer_state": tokenizer.state(),
        "data": data,
    }


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
