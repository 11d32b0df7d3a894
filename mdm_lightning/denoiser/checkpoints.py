"""Reading published weights: every tensor used, every parameter filled, or an error that lists what differs."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.families import Family, recognise
from mdm_lightning.denoiser.weight_files import CONFIG, Weights, enumerated, open_weights
from mdm_lightning.errors import UserError


def read_published(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
) -> Denoiser:
    """A denoiser with published weights, in evaluation mode.

    The model is built without memory, gets it once, on the device and in the data type asked for, and is filled tensor
    by tensor from the mapped files.

    Args:
        path: a folder as published on the hub, or one file of weights.
        vocab_size: number of ids that the tokenizer has (``Tokenizer.vocab_size``). Models of which some rows belong to
            no token need it: those rows are then never predicted.

    Raises:
        UserError: unknown, damaged, incomplete or not what its configuration says.
    """
    weights = open_weights(path)
    family = recognise(weights)
    try:
        arguments = family.arguments(weights, vocab_size)
        with torch.device("meta"):
            denoiser = family.denoiser(**arguments)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path} describes no possible {family.name} model: {error}") from error
    copies = family.copies(arguments)
    _compare(weights, family, denoiser, copies)
    denoiser = denoiser.to(dtype).to_empty(device=device).eval()
    _fill(weights, family, denoiser)
    if copies:
        _compare_copies(weights, denoiser, copies)
    return denoiser


def _compare(weights: Weights, family: Family, denoiser: Denoiser, copies: Mapping[str, str]) -> None:
    """Compares names and shapes before anything is read.

    Raises:
        UserError: listing what is missing, unknown and of another shape.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for name, value in denoiser.state_dict().items():
        rows, *rest = value.shape
        expected[family.stored_name(name)] = (rows + family.extra_rows(name), *rest)
    stored = {name: shape for name, shape in weights.shapes.items() if name not in copies}
    differences = {
        "missing": sorted(expected.keys() - stored.keys()),
        "unknown": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(stored[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in stored and stored[name] != shape
        ],
    }
    listed = "; ".join(f"{kind}: {enumerated(names)}" for kind, names in differences.items() if names)
    if listed:
        raise UserError(f"{weights.origin} is no {family.name} model as its configuration describes it: {listed}")


def _fill(weights: Weights, family: Family, denoiser: Denoiser) -> None:
    targets = {family.stored_name(name): (name, value) for name, value in denoiser.state_dict().items()}
    for stored, value in weights.tensors():
        if stored in targets:
            name, target = targets[stored]
            target.copy_(value[: len(value) - family.extra_rows(name)])


def _compare_copies(weights: Weights, denoiser: Denoiser, copies: Mapping[str, str]) -> None:
    """Raises:
    UserError: what is stored twice differs.
    """
    state = denoiser.state_dict()
    for stored, value in weights.tensors():
        if stored in copies and not torch.equal(value.to(state[copies[stored]]), state[copies[stored]]):
            raise UserError(
                f"{weights.origin}: {stored} differs from the embedding, though {CONFIG} says they are tied"
            )
