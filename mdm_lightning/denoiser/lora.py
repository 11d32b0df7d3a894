"""What is trained of a denoiser: all, or low-rank adapters on frozen weights (LoRA, Hu et al., 2022), by peft."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mdm_lightning.arguments import check, check_numbers, finite
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.errors import UserError

_BASE = ".base_layer."  # what peft puts into the name of a layer's own weights
_ADAPTER = ".lora_"


class Adapter(ABC):
    """What is trained of a denoiser that already has weights."""

    freezes: ClassVar[bool]
    """Whether the denoiser's own weights stay as they are."""

    @abstractmethod
    def inject(self, denoiser: Denoiser) -> None:
        """Adds what is trained, where the denoiser is: also without memory, on the meta device."""

    @abstractmethod
    def merge(self, denoiser: Denoiser) -> None:
        """Adds what was trained to the denoiser's own weights: it is as fast as before, and has its former layout."""


class AllWeights(Adapter):
    """Every weight is trained; there is no adapter."""

    freezes = False

    def inject(self, denoiser: Denoiser) -> None: ...

    def merge(self, denoiser: Denoiser) -> None: ...


@dataclass(frozen=True)
class LoRA(Adapter):
    """To the weight of each linear layer is added ``alpha / rank`` B A, and A and B alone are trained, in float32.

    Args:
        rank: rows of A, columns of B.
        alpha: scale of what is added.
        dropout: of the input of A, in training.
        targets: names, or ends of names, of the linear layers; None for all in the transformer's blocks.

    Raises:
        ValueError: a number is out of range.
        UserError: peft is not installed.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] | None = None

    freezes = True

    def __post_init__(self) -> None:
        check_numbers(self, rank=1)
        check(self, "alpha", finite(self.alpha) and self.alpha > 0, "positive and finite")
        check(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        check(self, "targets", self.targets is None or len(self.targets) > 0, "null or a list that is not empty")
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise UserError('adapter=lora needs the peft library: pip install "mdm-lightning[lora]"') from error

    def inject(self, denoiser: Denoiser) -> None:
        """Raises:
        UserError: no linear layer has one of the target names.
        """
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=self.dropout,
            target_modules=self._targets(denoiser),
        )
        without_memory = any(parameter.is_meta for parameter in denoiser.parameters())
        inject_adapter_in_model(config, denoiser, low_cpu_mem_usage=without_memory)
        for module in denoiser.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.detach().float()))

    def merge(self, denoiser: Denoiser) -> None:
        from peft.tuners.lora import LoraLayer

        for name, module in list(denoiser.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                denoiser.set_submodule(name, module.get_base_layer())

    def _targets(self, denoiser: Denoiser) -> list[str]:
        inside = {module for block in denoiser.shards() for module in block.modules()} or set(denoiser.modules())
        layers = [name for name, m in denoiser.named_modules() if isinstance(m, nn.Linear) and m in inside]
        if self.targets is None:
            return layers
        chosen = [layer for layer in layers if any(f".{layer}".endswith(f".{target}") for target in self.targets)]
        if not chosen:
            last = sorted({layer.rpartition(".")[2] for layer in layers})
            raise UserError(f"adapter.targets={list(self.targets)} names no linear layer; there are {', '.join(last)}")
        return chosen


def own_weights(denoiser: Denoiser) -> dict[str, Tensor]:
    """Parameters and buffers by the names that they have without an adapter, those of the adapter left out."""
    state = denoiser.state_dict()
    return {name.replace(_BASE, "."): value for name, value in state.items() if _ADAPTER not in name}


def adapter_start(denoiser: Denoiser, generator: torch.Generator) -> dict[str, Tensor]:
    """First values of an adapter's parameters, on the CPU: A as a linear layer begins (He et al., 2015), B zero."""
    start = {}
    for name, value in denoiser.state_dict().items():
        if _ADAPTER in name:
            start[name] = torch.zeros(value.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(start[name], a=math.sqrt(5), generator=generator)
    return start
