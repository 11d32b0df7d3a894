"""Muon for the matrices of the blocks, AdamW for the rest: two optimisers that are one to everybody else."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from mdm_lightning.arguments import check, finite
from mdm_lightning.training.optimizer import AdamW

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Muon(AdamW):
    """Muon (Jordan et al., 2024): the momentum of a matrix, made orthogonal, is its step.

    The matrices are those of the blocks, low-rank adapters' included. Embeddings, output layer, norms, biases, and the
    modulation by the noise level, whose gradient has rank one in a time-agnostic model, have AdamW with the other
    numbers. Steps have the size of AdamW's (``match_rms_adamw``, Liu et al., 2025, arXiv:2502.16982), so that one
    learning rate and one weight decay serve both. A model without matrices in ``blocks`` has AdamW alone, and a line
    says so.

    Raises:
        ValueError: a number is out of its range.
    """

    momentum: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "momentum", finite(self.momentum, 0) and self.momentum < 1, "a number in [0, 1)")

    def __call__(self, model: nn.Module) -> Optimizer:
        """The optimiser of a model's trainable parameters."""
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if _is_hidden_matrix(name, p)]
        if not matrices:
            log.warning("optimizer=muon: no matrix of a block is trained, so AdamW trains all")
            return self.over(trained)
        group = {"params": matrices, "lr": self.lr, "weight_decay": self.weight_decay, "momentum": self.momentum}
        return MuonBesideAdamW(group, self.over([pair for pair in trained if not _is_hidden_matrix(*pair)]))


class MuonBesideAdamW(Optimizer):
    """Muon for one group of matrices and another optimiser for the rest, as one, with one state in the usual format.

    ``torch.optim.Muon`` takes the same steps, of whole matrices one by one. Here matrices of one shape are made
    orthogonal together, and may be split by rows over processes (FSDP2): each process then gathers and makes all of
    them, and keeps its rows.

    Args:
        group: the matrices, ``params``, with ``lr``, ``weight_decay`` and ``momentum``.
        rest: the optimiser of the rest, whose groups and state become those of this one.
    """

    def __init__(self, group: dict[str, Any], rest: Optimizer) -> None:
        self.rest = rest
        super().__init__([group, *rest.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters, after the closure."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.rest.step()
        group = self.param_groups[0]
        alike: dict[torch.Size, list[nn.Parameter]] = {}
        for p in group["params"]:
            if p.grad is not None:
                alike.setdefault(p.shape, []).append(p)
        for matrices in alike.values():
            self._step(matrices, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    @torch.no_grad()
    def _step(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        updates = orthogonal(torch.stack([self._update(p, momentum) for p in matrices]))
        scale = 0.2 * max(matrices[0].shape) ** 0.5  # the root mean square of AdamW's steps (arXiv:2502.16982)
        for p, update in zip(matrices, updates.unbind(), strict=True):
            p.mul_(1 - lr * weight_decay)
            p.add_(update.to(p.dtype), alpha=-lr * scale)

    def _update(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's momentum, in what the iterations compute in."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        # bfloat16 is enough, and fast on GPUs; on CPUs without instructions for it, it is many times slower
        return p.grad.lerp(average, momentum).to(torch.float32 if p.device.type == "cpu" else torch.bfloat16)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Gives the other optimiser the groups and the state of the whole, which loading replaces."""
        self.rest.state = self.state
        self.rest.param_groups = self.param_groups[1:]


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices ``(k, n, m)`` with singular values near 1 in place of their own: five Newton-Schulz iterations.

    Those of Jordan et al. (2024), which take singular values of any size quickly to between 0.7 and 1.2 and leave them
    there. Matrices split over processes are made whole by each of them.
    """
    if isinstance(matrices, DTensor):
        made = DTensor.from_local(orthogonal(matrices.full_tensor()), matrices.device_mesh, [Replicate()])
        return made.redistribute(placements=matrices.placements)
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    parts = name.split(".")
    return parameter.ndim == 2 and "blocks" in parts and "adaLN_modulation" not in parts
