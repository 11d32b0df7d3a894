"""Reading published weights: every tensor used, every parameter filled, or an error that lists what differs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser, oversized
from mdm_lightning.denoiser.published.autoregressive import with_mask
from mdm_lightning.denoiser.published.family import NOTHING, Family, Unstated
from mdm_lightning.denoiser.published.recognition import recognise
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights, enumerated, open_weights
from mdm_lightning.errors import UserError

SLIP = 256  # a configuration that is wrong by no more is compared with the weights in detail

Fill = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class PublishedModel:
    """Published weights that are open: what they are is known, and no tensor is read yet.

    Attributes:
        weights: names and shapes at once, values one by one.
        family: the format they are in.
    """

    weights: Weights
    family: Family

    @classmethod
    def open(cls, path: Path) -> "PublishedModel":
        """The weights at ``path``: a folder as published on the hub, or one file of weights.

        Raises:
            UserError: there are none, or they are unknown, damaged or incomplete.
        """
        weights = open_weights(path)
        return cls(weights, recognise(weights))

    def begun(self, vocab_size: int | None, unstated: Unstated) -> "PublishedModel":
        """The model itself; of an autoregressive one, the masked diffusion model that begins as it.

        Raises:
            UserError: the user says that it is autoregressive, and it is not.
        """
        if not unstated.autoregressive:
            return self
        return PublishedModel(with_mask(self.weights, self.family, vocab_size, unstated), self.family)

    def arguments(self, vocab_size: int | None, unstated: Unstated = NOTHING) -> dict[str, Any]:
        """Arguments of ``family.denoiser`` for these weights.

        Args:
            vocab_size: number of ids that the tokenizer has (``Tokenizer.vocab_size``). Models of which some rows
                belong to no token need it: those rows are then never predicted.
            unstated: what the user says of the model and its files do not.

        Raises:
            UserError: the configuration describes no possible model, a larger one than there are weights for, or does
                not go with the vocabulary.
        """
        try:
            arguments = self.family.arguments(self.weights, vocab_size, unstated)
        except (ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
            raise self._impossible(error) from error
        without_memory = {name: torch.empty(shape, device="meta") for name, shape in self.weights.shapes.items()}
        shapes = {name: tuple(value.shape) for name, value in self.family.to_ours(without_memory)}
        sizes = self.family.denoiser.sizes(shapes.get)
        # Slips are listed tensor by tensor once the model is built; also on the meta device, a billion blocks are not.
        larger = oversized(arguments, sizes, spare=SLIP)
        if larger:
            raise UserError(f"{self.weights.origin} describes a larger model than it has weights for: {larger}")
        return arguments

    def build(self, arguments: Mapping[str, Any], dtype: torch.dtype) -> Denoiser:
        """A denoiser without memory, on the meta device, that these weights fit.

        Raises:
            UserError: the configuration describes no possible model, or another one than the weights.
        """
        try:
            with torch.device("meta"):
                denoiser = self.family.denoiser(**arguments)
        except (ValueError, TypeError) as error:
            raise self._impossible(error) from error
        self._compare(denoiser, self.family.copies(arguments))
        return denoiser.to(dtype)

    def fill(self, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any], copy: Fill = Tensor.copy_) -> None:
        """Copies the stored tensors, one by one from the mapped files, into those of a denoiser that ``build`` made.

        Args:
            parameters: by their names in the denoiser as it was built.
            copy: how a stored tensor, the second argument, gets into the denoiser's, the first.

        Raises:
            UserError: what is stored twice differs.
        """
        for name, value in self.family.to_ours(self.weights):
            if name in parameters:
                copy(parameters[name], value)
        self._compare_copies(self.family.copies(arguments))

    def read(self, arguments: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype) -> Denoiser:
        """A denoiser with the weights, in evaluation mode.

        It is built without memory, gets it once, on the device and in the data type asked for, and is filled tensor by
        tensor from the mapped files.

        Raises:
            UserError: the weights are damaged, incomplete or not what their configuration says.
        """
        denoiser = self.build(arguments, dtype).to_empty(device=device).eval()
        self.fill(denoiser.state_dict(), arguments)
        return denoiser

    def _impossible(self, error: Exception) -> UserError:
        return UserError(f"{self.weights.origin} describes no possible {self.family.name} model: {error}")

    def _compare(self, denoiser: Denoiser, copies: Mapping[str, str]) -> None:
        """Compares names and shapes before anything is read.

        Raises:
            UserError: listing what is missing, unknown and of another shape.
        """
        expected = {name: tuple(value.shape) for name, value in self.family.to_theirs(denoiser.state_dict())}
        stored = {name: shape for name, shape in self.weights.shapes.items() if name not in copies}
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
            raise UserError(
                f"{self.weights.origin} is no {self.family.name} model as its configuration describes it: {listed}"
            )

    def _compare_copies(self, copies: Mapping[str, str]) -> None:
        """Raises:
        UserError: what is stored twice differs.
        """
        for copied, original in copies.items():
            if copied not in self.weights.shapes:
                continue
            value = self.weights[original]
            if not torch.equal(value, self.weights[copied].to(value.dtype)):
                raise UserError(
                    f"{self.weights.origin}: {copied} differs from the embedding, though {CONFIG} says they are tied"
                )


def read_published(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
    unstated: Unstated = NOTHING,
) -> Denoiser:
    """A denoiser with published weights: see ``PublishedModel.read``.

    Args:
        path: a folder as published on the hub, or one file of weights.
        vocab_size: as in ``PublishedModel.arguments``.
        unstated: as there.

    Raises:
        UserError: unknown, damaged, incomplete or not what its configuration says.
    """
    published = PublishedModel.open(path).begun(vocab_size, unstated)
    return published.read(published.arguments(vocab_size, unstated), device, dtype)
