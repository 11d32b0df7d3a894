"""Lightning checkpoints of MDLM's and duo's code: averaged weights, and a configuration without its classes."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2, _rebuild_tensor_v3

from mdm_lightning.errors import UserError

_DEEPEST = 32  # levels of a configuration; a pickle may hold a list that holds itself


class _Inert:
    """Stands for whatever a file names, class or function, and for what comes of it: it takes everything that a pickle
    does to objects, keeps what it is given, and does nothing.

    Attributes:
        state: of an object with attributes.
        items: of a mapping that was filled item by item.
        elements: of a list or set that was filled element by element.
    """

    state: Any
    items: dict[Any, Any]
    elements: list[Any]

    def __new__(cls, *args: object, **keywords: object) -> "_Inert":
        created = super().__new__(cls)
        created.state, created.items, created.elements = None, {}, []
        return created

    def __init__(self, *args: object, **keywords: object) -> None: ...

    def __call__(self, *args: object, **keywords: object) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value

    def append(self, value: object) -> None:
        self.elements.append(value)

    def extend(self, values: list[object]) -> None:
        self.elements.extend(values)

    add = append


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Tensor:
    """A tensor without what may hang on one: gradients, hooks, attributes."""
    return _rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


def _tensor_of_new_type(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    grad: bool,
    hooks: object,
    dtype: torch.dtype,
    *rest: object,
) -> Tensor:
    """As ``_tensor``, for data types that have no storage of their own."""
    return _rebuild_tensor_v3(storage, offset, size, stride, False, OrderedDict(), dtype)


def _parameter(value: Tensor, *rest: object) -> Tensor:
    return value


_REAL = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_new_type,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
"""All that is what it is called; the storages of tensors are known to torch.load itself."""


class _Unpickler(pickle.Unpickler):
    """Finds nothing but tensors and plain containers: the rest is inert, and no module is imported."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        # A class of its own each time: what a pickle does to one class touches no other.
        return _REAL.get((module_name, global_name)) or type(global_name, (_Inert,), {})


_WITHOUT_CLASSES = SimpleNamespace(__name__="without classes", Unpickler=_Unpickler)


def load_without_classes(path: Path) -> Any:
    """The contents of a ``torch.save`` file. Of all that it names, tensors and plain containers are built; nothing else
    is imported or called.

    Raises:
        Exception: of any kind, since a damaged file may ask for anything.
    """
    # Before it looks at anything else, it refuses TorchScript, which torch.load would hand to another reader.
    with suppress(pickle.UnpicklingError):
        torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_WITHOUT_CLASSES, mmap=True)


def plain(node: Any, depth: int = 0) -> Any:
    """Containers of OmegaConf, as ``load_without_classes`` leaves them, as dicts, lists and values."""
    if depth > _DEEPEST:
        return None
    if isinstance(node, _Inert):
        state = node.state if isinstance(node.state, Mapping) else {}
        if "_content" in state or "_val" in state:
            return plain(state.get("_content", state.get("_val")), depth + 1)
        return plain(node.items or node.elements or None, depth + 1)
    if isinstance(node, Mapping):
        return {key: plain(value, depth + 1) for key, value in node.items()}
    return [plain(value, depth + 1) for value in node] if isinstance(node, list) else node


def shadow_weights(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights by name; empty where there are none.

    They are stored as a list in the order of ``backbone.parameters()``, which is the order of the names in the state
    dict.

    Raises:
        UserError: the list does not fit the names.
    """
    average = checkpoint.get("ema")
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(value, Tensor) for value in shadow):
        return {}
    parameters = {
        name: value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("backbone.") and not name.endswith(".inv_freq")  # a buffer, which is not averaged
    }
    shapes = [tuple(value.shape) for value in parameters.values()]
    if shapes != [tuple(value.shape) for value in shadow]:
        raise UserError(
            f"{path} has {len(shadow)} averaged weights (ema.shadow_params) that do not fit its {len(shapes)} "
            "parameters; remove `ema` from the file to use the weights that are not averaged"
        )
    return dict(zip(parameters, shadow, strict=True))
