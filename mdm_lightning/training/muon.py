"""Muon for the matrices of the blocks, AdamW for the rest: two optimisers that are one to everybody else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mdm_lightning.arguments import check, finite
from mdm_lightning.errors import UserError
from mdm_lightning.training.optimizer import AdamW


@dataclass(frozen=True)
class Muon(AdamW):
    """Muon (Jordan et al., 2024): the momentum of a matrix, made orthogonal, is its step.

    The matrices are those of the blocks, low-rank adapters' included. Embeddings, output layer, norms, biases, and the
    modulation by the noise level, whose gradient has rank one in a time-agnostic model, have AdamW with the other
    numbers. Steps have the size of AdamW's (``match_rms_adamw``, Liu et al., 2025, arXiv:2502.16982), so that one
    learning rate and one weight decay serve both.

    Raises:
        ValueError: a number is out of its range.
    """

    momentum: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "momentum", finite(self.momentum, 0) and self.momentum < 1, "a number in [0, 1)")

    def __call__(self, model: nn.Module) -> Optimizer:
        """The optimiser of a model's trainable parameters.

        Raises:
            UserError: the blocks have no matrices, the matrices are split over processes, or torch is too old.
        """
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"optimizer=muon needs torch 2.9 or newer, and this is {torch.__version__}")
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if _is_hidden_matrix(name, p)]
        if not matrices:
            raise UserError("optimizer=muon is for models with matrices in blocks, and this one trains none")
        if any(isinstance(p, DTensor) for p in matrices):
            raise UserError("optimizer=muon needs whole matrices: train without trainer=fsdp, or with optimizer=adamw")
        muon = torch.optim.Muon(matrices, self.lr, self.weight_decay, self.momentum, adjust_lr_fn="match_rms_adamw")
        return JointOptimizer([muon, self.over([pair for pair in trained if not _is_hidden_matrix(*pair)])])


class JointOptimizer(Optimizer):
    """Optimisers of different parameters as one, with all their groups, and one state, in the usual format.

    Args:
        parts: the optimisers, whose groups and state become those of this one.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every part, after the closure."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Gives the parts the groups and the state of the whole, which loading replaces."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    parts = name.split(".")
    return parameter.ndim == 2 and "blocks" in parts and "adaLN_modulation" not in parts
