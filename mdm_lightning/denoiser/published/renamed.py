"""Published formats of ``Llama`` that call its modules by other names, each tensor being one of the denoiser's."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.published.family import Family, NamedTensors


class RenamedLlama(Family):
    """A published format of ``Llama``: the names of modules, ours first."""

    denoiser = Llama
    blocks: ClassVar[str]
    modules: ClassVar[Mapping[str, str]]
    block_modules: ClassVar[Mapping[str, str]]

    def to_ours(self, stored: Mapping[str, Tensor]) -> NamedTensors:
        outside = {theirs: ours for ours, theirs in self.modules.items()}
        inside = {theirs: ours for ours, theirs in self.block_modules.items()}
        for name in stored:
            module, _, kind = name.rpartition(".")
            number, _, within = module.removeprefix(f"{self.blocks}.").partition(".")
            if module in outside:
                yield f"{outside[module]}.{kind}", stored[name]
            elif module.startswith(f"{self.blocks}.") and within in inside:
                yield f"blocks.{number}.{inside[within]}.{kind}", stored[name]

    def to_theirs(self, state: Mapping[str, Tensor]) -> NamedTensors:
        for name in state:
            *path, kind = name.split(".")
            if path[0] == "blocks":
                module = f"{self.blocks}.{path[1]}.{self.block_modules[path[2]]}"
            else:
                module = self.modules[path[0]]
            yield f"{module}.{kind}", state[name]

    def copies(self, arguments: Mapping[str, Any]) -> Mapping[str, str]:
        if not arguments["tie_weights"]:
            return {}
        return {f"{self.modules['lm_head']}.weight": f"{self.modules['embedding']}.weight"}


class DecoderLayout(RenamedLlama):
    """The names of Llama (Touvron et al., 2023), which Qwen2 and Qwen3 kept, and what grew out of them."""

    blocks = "model.layers"
    modules: ClassVar[Mapping[str, str]] = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "lm_head": "lm_head",
    }
    block_modules: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "query_norm": "self_attn.q_norm",
        "key_norm": "self_attn.k_norm",
        "output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
