"""Files of weights as they are published: safetensors or torch, whole or sharded with an index.

Nothing in a file is executed: safetensors holds no code, and torch files are read with ``weights_only``. Tensors are
mapped from disk and handed out one by one.
"""

import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdm_lightning.denoiser.published.lightning_file import load_without_classes, plain, shadow_weights
from mdm_lightning.errors import UserError
from mdm_lightning.files import read_json_object

CONFIG = "config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_PRECISIONS = {"F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16"}


class TensorFile(ABC):
    """One file of named tensors."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One of the tensors, mapped from disk where possible: copy what is to stay."""


class SafetensorsFile(TensorFile):
    """A ``.safetensors`` file; opening it reads the header only.

    Raises:
        UserError: it is damaged, or its tensors are quantised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                self.shapes = {name: tuple(entry.get_shape()) for name, entry in slices.items()}
                _refuse_quantised(path, {name: entry.get_dtype() for name, entry in slices.items()})
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error

    def read(self, name: str) -> Tensor:
        # Mapped anew for each tensor: the pages of a mapping count as memory until it ends.
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)


class TorchFile(TensorFile):
    """A file of ``torch.save``: a state dict, or a Lightning checkpoint of MDLM's or duo's.

    Of a Lightning checkpoint the averaged weights are taken where it has them. Objects of other classes in it (MDLM
    keeps its configuration and tokenizer there) are not built.

    Attributes:
        hyper_parameters: what a Lightning checkpoint says of its model, as plain containers.

    Raises:
        UserError: it is damaged, holds no named tensors, or its tensors are quantised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = load_without_classes(path)
        except Exception as error:  # a damaged or hostile file makes the unpickler raise anything
            raise _unreadable(path, error) from error
        self.hyper_parameters: Mapping[str, Any] = {}
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            described = plain(content.get("hyper_parameters"))
            self.hyper_parameters = described if isinstance(described, Mapping) else {}
            _refuse_unnamed(path, content["state_dict"])
            content = {**content["state_dict"], **shadow_weights(path, content)}
        _refuse_unnamed(path, content)
        refuse_hollow(path, content)
        self._content = content
        self.shapes = {name: tuple(value.shape) for name, value in content.items()}
        _refuse_quantised(path, {name: str(value.dtype) for name, value in content.items()})

    def read(self, name: str) -> Tensor:
        return self._content[name]


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, Tensor]):
    """Published weights: names and shapes at once; a tensor is read when it is asked for, one file after the other.

    Attributes:
        origin: where they lie, for messages.
        files: the files that hold them.
        config: what ``config.json`` says; empty where there is none.
        hyper_parameters: what a Lightning checkpoint says of its model.
    """

    origin: Path
    files: tuple[TensorFile, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for file in self.files for name, shape in file.shapes.items()}

    def __getitem__(self, name: str) -> Tensor:
        for file in self.files:
            if name in file.shapes:
                return file.read(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_weights(path: Path) -> Weights:
    """The weights in a folder as published on the hub, or in a single file.

    Raises:
        UserError: there are none, or they are damaged or incomplete.
    """
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a folder or a file of published weights")
        file = _open(path)
        hyper_parameters = file.hyper_parameters if isinstance(file, TorchFile) else {}
        return Weights(path, (file,), read_json_object(path.with_name(CONFIG)), hyper_parameters)
    config = read_json_object(path / CONFIG)
    for name in _WHOLE:
        if (path / name).is_file():
            return Weights(path, (_open(path / name),), config)
        index = path / f"{name}.index.json"
        if index.is_file():
            return Weights(path, _shards(index), config)
    raise UserError(f"{path} has no {_WHOLE[0]}, whole or with an index; give a folder of published weights")


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a folder of published weights lacks: without reading any tensor."""
    wanted = [CONFIG]
    index = folder / f"{_WHOLE[0]}.index.json"
    wanted += sorted(set(_weight_map(index).values())) if index.is_file() else [_WHOLE[0]]
    return [name for name in wanted if not (folder / name).is_file()]


def _open(path: Path) -> SafetensorsFile | TorchFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _shards(index: Path) -> tuple[TensorFile, ...]:
    """The files that an index lists, each with exactly the tensors that it says."""
    listed: dict[str, set[str]] = {}
    for tensor, name in _weight_map(index).items():
        listed.setdefault(name, set()).add(tensor)
    absent = sorted(name for name in listed if not (index.parent / name).is_file())
    if absent:
        raise UserError(f"{index.parent} lacks {enumerated(absent)}, which {index.name} names; fetch the folder again")
    files = []
    for name, tensors in sorted(listed.items()):
        file = _open(index.parent / name)
        differ = sorted(tensors ^ file.shapes.keys())
        if differ:
            raise UserError(f"{index} and {name} disagree about {enumerated(differ)}; fetch the folder again")
        files.append(file)
    return tuple(files)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to file, as an index has it; the files lie beside it."""
    entries = read_json_object(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{index} has no weight_map; fetch it again")
    if not all(isinstance(name, str) and Path(name).name == name for name in entries.values()):
        raise UserError(f"{index} names files outside its folder; fetch it again")
    return entries


def enumerated(names: list[str], most: int = 5) -> str:
    """A list for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _refuse_unnamed(path: Path, content: Any) -> None:
    """Raises:
    UserError: it is something else than named tensors.
    """
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds something else than named tensors; give a file of weights")


def _refuse_quantised(path: Path, precisions: Mapping[str, str]) -> None:
    other = sorted(f"{name} ({kind})" for name, kind in precisions.items() if kind not in _PRECISIONS)
    if other:
        raise UserError(f"{path} holds {enumerated(other)}: give weights in bfloat16, float16, float32 or float64")


def refuse_hollow(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are larger than what is stored of them, as none is that was trained: a file of some bytes
    could demand any amount of memory.

    Raises:
        UserError: naming them.
    """
    hollow = [
        name
        for name, value in tensors.items()
        if value.layout != torch.strided
        or value.is_meta
        or value.is_nested
        or value.untyped_storage().nbytes() < value.numel() * value.element_size()
    ]
    if hollow:
        raise UserError(f"{path} has not all the values of {enumerated(hollow)}: it is damaged, or no file of weights")


def first_sentence(error: Exception) -> str:
    """What a library says of a file that it cannot read, in short: without colours, advice and what is cut off."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    first = " ".join(re.split(r"(?<=\w)\.\s|\n", said.strip(), maxsplit=1)[0].split())
    return textwrap.shorten(first, 160, placeholder=" ...") or type(error).__name__


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no readable file of weights, or damaged ({first_sentence(error)}); fetch it again")
