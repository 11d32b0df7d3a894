"""Published models where a checkpoint of this package may be: a local file or folder, or a model on the hub."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from mdm_lightning.checkpoint.stored_config import TARGET
from mdm_lightning.data.hub import TOKENIZER_FILES, fetch_files, has_tokenizer
from mdm_lightning.data.source import digest
from mdm_lightning.data.tokenizer.spec import Pretrained
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.attention import AttentionPattern
from mdm_lightning.denoiser.published.family import NOTHING, Unstated
from mdm_lightning.denoiser.published.loading import PublishedModel
from mdm_lightning.denoiser.published.weight_files import missing_files
from mdm_lightning.errors import UserError

# Not the code that some models bring along: none of it is run.
WANTED = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
]

_SAMPLE = 1 << 16  # bytes of each place at which a file of weights is looked at
_PLACES = 16


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published model, before its weights are read.

    Attributes:
        name: the hub's name, or the path of a folder or file.
        path: the folder or file, also of what is on the hub.
        model: its weights, open.
        arguments: what its denoiser is built from, the vocabulary included.
        tokenizer: the one that it was trained with.
        fingerprint: of the weights, what their configuration says, and the tokenizer.
        unstated: what the user has said of it, beside its files.
        step: stands for the optimizer step, which is not known.
    """

    name: str
    path: Path
    model: PublishedModel
    arguments: Mapping[str, Any]
    tokenizer: Tokenizer
    fingerprint: str
    unstated: Unstated = NOTHING
    step: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """Enough to find the model again, and to notice if its weights are others by then."""
        known = {name: value for name, value in asdict(self.unstated).items() if value is not None}
        return {"origin": self.name, "fingerprint": self.fingerprint} | ({"unstated": known} if known else {})

    @property
    def config(self) -> dict[str, Any]:
        """What ``model`` of a configuration says of such a denoiser, in plain values. What the family leaves out has
        its default, whatever ``model=`` chose; but which positions read which may be chosen."""
        kind = self.model.family.denoiser
        parameters = inspect.signature(kind).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "attention"}
        return {TARGET: _target(kind), **defaults, **_plain(self.arguments)}


def _target(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a constructor, with the configuration of an attention pattern in the place of it."""
    return {
        name: {TARGET: _target(type(value)), **vars(value)} if isinstance(value, AttentionPattern) else value
        for name, value in arguments.items()
    }


def open_published(
    name_or_path: str, tokenizer: Tokenizer | DictConfig | None = None, unstated: Unstated = NOTHING
) -> PublishedCheckpoint:
    """The published model that ``ckpt=`` names.

    Args:
        tokenizer: the one to use; or what ``tokenizer=`` chose, which is used if the model brings none along.
        unstated: what its files do not say.

    Raises:
        UserError: there is no such model, it cannot be had, or it does not go with its tokenizer.
    """
    path = find_published(name_or_path).absolute()
    local = Path(name_or_path).expanduser().exists()
    model = PublishedModel.open(path)
    built = tokenizer if isinstance(tokenizer, Tokenizer) else _tokenizer(path, model, tokenizer)
    model = model.begun(built.vocab_size, unstated)
    arguments = model.arguments(built.vocab_size, unstated)
    return PublishedCheckpoint(
        name=str(path) if local else name_or_path,
        path=path,
        model=model,
        arguments=arguments,
        tokenizer=built,
        fingerprint=digest(_contents(model), _plain(arguments), built.fingerprint),
        unstated=unstated,
    )


def find_published(name_or_path: str) -> Path:
    """The file or folder of published weights that ``ckpt=`` names. A hub model is looked for in the local cache first.

    Raises:
        UserError: it is neither there nor on the hub, or the hub cannot be reached (within seconds).
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name, _, revision = name_or_path.partition("@")
    return fetch_files(
        name,
        revision or None,
        WANTED,
        missing_files,
        kind="the model",
        instead="set ckpt= to a run, or to a folder with the model's files",
    )


def _tokenizer(path: Path, model: PublishedModel, chosen: DictConfig | None) -> Tokenizer:
    """The tokenizer beside the weights; without one, what ``tokenizer=`` chose; else the family's usual one."""
    folder = path if path.is_dir() else path.parent
    if has_tokenizer(folder):
        return Tokenizer.load(folder)
    if chosen is not None and issubclass(get_class(chosen._target_), Pretrained):
        return instantiate(chosen).build(list, folder)
    usual = model.family.usual_tokenizer
    if usual is None:
        raise UserError(f"{path} has no tokenizer: set tokenizer=file tokenizer.name_or_path=")
    return Pretrained(usual).build(list, folder)


def _contents(model: PublishedModel) -> str:
    """A fingerprint of the weights from their names, shapes and a few places in each file: 16 GB are not read whole."""
    seen = hashlib.sha256(repr(sorted(model.weights.shapes.items())).encode())
    for file in model.weights.files:
        size = file.path.stat().st_size
        seen.update(str(size).encode())
        with file.path.open("rb") as content:
            for place in range(_PLACES):
                content.seek(max(0, size - _SAMPLE) * place // (_PLACES - 1))
                seen.update(content.read(_SAMPLE))
    return seen.hexdigest()
