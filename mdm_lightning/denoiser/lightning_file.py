"""Lightning checkpoints of MDLM's and duo's code: averaged weights, and a configuration without its classes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdm_lightning.errors import UserError


class _Inert:
    """Stands for an object of a class that is not loaded: it keeps its state and does nothing."""

    state: Any

    def __new__(cls, *args: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        self.state = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _stand_in(name: str) -> Callable[..., _Inert]:
    """An inert class of that name: the unpickler looks classes up by module and name."""
    module, _, name = name.rpartition(".")
    return type(name, (_Inert,), {"__module__": module})


def load_without_classes(path: Path) -> Any:
    """The contents of a ``torch.save`` file, read by torch's ``weights_only`` unpickler.

    Classes and functions that this unpickler does not know become ``_Inert``: nothing the file names is imported or
    called.

    Raises:
        RuntimeError, EOFError, pickle.UnpicklingError, ValueError, OSError: it cannot be read.
    """
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([_stand_in(name) for name in unknown]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def plain(node: Any) -> Any:
    """Containers of OmegaConf, as ``load_without_classes`` leaves them, as dicts, lists and values."""
    if isinstance(node, _Inert):
        state = node.state if isinstance(node.state, Mapping) else {}
        return plain(state.get("_content", state.get("_val")))
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list) else node


def shadow_weights(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights by name; empty where there are none.

    They are stored as a list in the order of ``backbone.parameters()``, which is the order of the names in the state
    dict.

    Raises:
        UserError: the list does not fit the names.
    """
    average = checkpoint.get("ema")
    if not isinstance(average, Mapping) or not isinstance(average.get("shadow_params"), list):
        return {}
    shadow = average["shadow_params"]
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
