"""Tiny random models of each family, written as they are published."""

import json
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mdm_lightning.data.tokenizer.published import END_OF_TEXT
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.denoiser.published.family import NOTHING, Unstated
from mdm_lightning.denoiser.published.loading import read_published
from mdm_lightning.errors import UserError

from . import plain_llama

ROWS, HIDDEN, HEADS, KEY_VALUE_HEADS, DEPTH, MLP, LENGTH = 40, 16, 4, 2, 2, 24, 32


@dataclass(frozen=True)
class Published:
    """A published model: configuration and tensors under published names, and the ids that its tokenizer would have."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    vocab_size: int
    mask_row: int
    unstated: Unstated = NOTHING

    def write(self, folder: Path, shards: int = 1) -> Path:
        """Writes config.json and the weights, sharded with an index if there is more than one shard."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        if shards == 1:
            save_file(self.weights, folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        names = sorted(self.weights)
        where = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = {name: self.weights[name] for name in names[number::shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(part, file)
        write_index(folder, where)
        return folder


def write_index(folder: Path, where: dict[str, str]) -> None:
    content = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def random(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, std: float = 0.3
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * std).to(dtype) for name, shape in shapes.items()}


def llama_shapes(
    layout: plain_llama.Layout,
    tied: bool,
    bias: bool,
    key_value_heads: int,
    head_dim: int = HIDDEN // HEADS,
    norms: bool = False,
) -> dict[str, tuple[int, ...]]:
    query_size, key_value_size = head_dim * HEADS, head_dim * key_value_heads
    shapes: dict[str, tuple[int, ...]] = {layout.embedding: (ROWS, HIDDEN), layout.final_norm: (HIDDEN,)}
    for i in range(DEPTH):
        at = layout.block.format(i)
        shapes |= {
            f"{at}{layout.attention_norm}.weight": (HIDDEN,),
            f"{at}{layout.q}.weight": (query_size, HIDDEN),
            f"{at}{layout.k}.weight": (key_value_size, HIDDEN),
            f"{at}{layout.v}.weight": (key_value_size, HIDDEN),
            f"{at}{layout.o}.weight": (HIDDEN, query_size),
            f"{at}{layout.mlp_norm}.weight": (HIDDEN,),
            f"{at}{layout.gate}.weight": (MLP, HIDDEN),
            f"{at}{layout.up}.weight": (MLP, HIDDEN),
            f"{at}{layout.down}.weight": (HIDDEN, MLP),
        }
        if norms:
            shapes |= {f"{at}self_attn.{which}_norm.weight": (head_dim,) for which in "qk"}
        if bias:
            sizes = {layout.q: query_size, layout.k: key_value_size, layout.v: key_value_size}
            shapes |= {f"{at}{name}.bias": (size,) for name, size in sizes.items()}
    if not tied:
        shapes[layout.head] = (ROWS, HIDDEN)
    return shapes


def llada(dtype: torch.dtype = torch.float32, tied: bool = False, key_value_heads: int = HEADS) -> Published:
    """36 ids, of which 33 is MASK; the last four rows belong to no token."""
    config = {
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": HIDDEN,
        "embedding_size": ROWS,
        "eos_token_id": 31,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": 33,
        "max_sequence_length": LENGTH,
        "mlp_hidden_size": MLP,
        "mlp_ratio": 4,
        "model_type": "llada",
        "n_heads": HEADS,
        "n_kv_heads": key_value_heads,
        "n_layers": DEPTH,
        "pad_token_id": 31,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "vocab_size": ROWS,
        "weight_tying": tied,
    }
    shapes = llama_shapes(plain_llama.LLADA, tied, bias=False, key_value_heads=key_value_heads)
    return Published(config, random(shapes, dtype), vocab_size=36, mask_row=33)


def dream(dtype: torch.dtype = torch.float32, tied: bool = False) -> Published:
    """37 ids, of which the last is MASK; three rows belong to no token."""
    config = {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "eos_token_id": 34,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "mask_token_id": 36,
        "max_position_embeddings": LENGTH,
        "model_type": "Dream",
        "num_attention_heads": HEADS,
        "num_hidden_layers": DEPTH,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "pad_token_id": 34,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "vocab_size": ROWS,
    }
    shapes = llama_shapes(plain_llama.DREAM, tied, bias=True, key_value_heads=KEY_VALUE_HEADS)
    return Published(config, random(shapes, dtype), vocab_size=37, mask_row=36)


def qwen3(
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    unstated: Unstated | None = None,
    **changes: Any,
) -> Published:
    """37 ids, of which the last is MASK, which is not said; heads of their own width, queries and keys with norms."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 34,
        "head_dim": 6,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "max_position_embeddings": LENGTH,
        "model_type": "a2d-qwen3",
        "num_attention_heads": HEADS,
        "num_hidden_layers": DEPTH,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "vocab_size": ROWS,
    }
    shapes = llama_shapes(plain_llama.DREAM, tied, False, KEY_VALUE_HEADS, head_dim=6, norms=True)
    unstated = Unstated(mask_id=36, shifted=False) if unstated is None else unstated
    return Published(config | changes, random(shapes, dtype), vocab_size=37, mask_row=36, unstated=unstated)


def qwen2(dtype: torch.dtype = torch.float32, tied: bool = True) -> Published:
    """Qwen2's layout, tied, with biases of queries, keys and values; shifted, which is not said."""
    model = dream(dtype, tied)
    config = {key: value for key, value in model.config.items() if key != "mask_token_id"} | {"model_type": "qwen2"}
    return replace(model, config=config, unstated=Unstated(mask_id=36, shifted=True))


def llama3(dtype: torch.dtype = torch.float32) -> Published:
    """Llama's layout with nothing special, and a configuration of the newer kind that says where MASK is."""
    config = {
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "layer_types": ["full_attention"] * DEPTH,
        "mask_token_id": 36,
        "max_position_embeddings": LENGTH,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": DEPTH,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "vocab_size": ROWS,
    }
    shapes = llama_shapes(plain_llama.DREAM, False, False, HEADS)
    return Published(config, random(shapes, dtype), vocab_size=37, mask_row=36, unstated=Unstated(shifted=False))


def sdar(dtype: torch.dtype = torch.float32) -> Published:
    """Qwen3's layout in blocks of 4."""
    said = {"model_type": "sdar", "block_size": 4, "mask_token_id": 36}
    return qwen3(dtype, unstated=NOTHING, **said)


def fast_dllm(dtype: torch.dtype = torch.float32) -> Published:
    """Qwen2's layout in blocks of 4, shifted; where MASK is stands nowhere."""
    model = qwen2(dtype)
    config = model.config | {"model_type": "Fast_dLLM_Qwen", "bd_size": 4}
    return replace(model, config=config, unstated=Unstated(mask_id=36))


def mdlm(dtype: torch.dtype = torch.float32, time_conditioning: bool = False) -> Published:
    """39 ids and MASK, which is the last row."""
    cond = 6
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (ROWS, HIDDEN),
        "sigma_map.mlp.0.weight": (cond, 256),
        "sigma_map.mlp.0.bias": (cond,),
        "sigma_map.mlp.2.weight": (cond, cond),
        "sigma_map.mlp.2.bias": (cond,),
        "rotary_emb.inv_freq": (HIDDEN // HEADS // 2,),
    }
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.norm1.weight": (HIDDEN,),
            f"blocks.{i}.attn_qkv.weight": (3 * HIDDEN, HIDDEN),
            f"blocks.{i}.attn_out.weight": (HIDDEN, HIDDEN),
            f"blocks.{i}.norm2.weight": (HIDDEN,),
            f"blocks.{i}.mlp.0.weight": (4 * HIDDEN, HIDDEN),
            f"blocks.{i}.mlp.0.bias": (4 * HIDDEN,),
            f"blocks.{i}.mlp.2.weight": (HIDDEN, 4 * HIDDEN),
            f"blocks.{i}.mlp.2.bias": (HIDDEN,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * HIDDEN, cond),
            f"blocks.{i}.adaLN_modulation.bias": (6 * HIDDEN,),
        }
    shapes |= {
        "output_layer.norm_final.weight": (HIDDEN,),
        "output_layer.linear.weight": (ROWS, HIDDEN),
        "output_layer.linear.bias": (ROWS,),
        "output_layer.adaLN_modulation.weight": (2 * HIDDEN, cond),
        "output_layer.adaLN_modulation.bias": (2 * HIDDEN,),
    }
    config = {
        "architectures": ["MDLM"],
        "cond_dim": cond,
        "dropout": 0.1,
        "hidden_dim": HIDDEN,
        "model_length": LENGTH,
        "model_type": "mdlm",
        "n_blocks": DEPTH,
        "n_heads": HEADS,
        "time_conditioning": time_conditioning,
        "vocab_size": ROWS,
    }
    weights = random({f"backbone.{name}": shape for name, shape in shapes.items()}, dtype)
    head_dim = HIDDEN // HEADS
    weights["backbone.rotary_emb.inv_freq"] = 10_000 ** (-torch.arange(0, head_dim, 2) / head_dim)
    return Published(config, weights, vocab_size=ROWS - 1, mask_row=ROWS - 1)


def refusal(path: Path, **options) -> str:
    """The one line with which the weights at ``path`` are refused."""
    with pytest.raises(UserError) as error:
        read_published(path, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_with_tokenizer(published: Published, folder: Path, shards: int = 1) -> Path:
    """As ``Published.write``, with a tokenizer of one token per character that has as many ids as the model wants."""
    special = [END_OF_TEXT, "<|mdm_mask|>"]
    characters = (string.ascii_lowercase + " :.0123456789")[: published.vocab_size - len(special) - 1]
    tokenizer = Tokenizer(from_characters(characters, special=special), eos_token=END_OF_TEXT)
    assert tokenizer.vocab_size == published.vocab_size
    published.write(folder, shards)
    tokenizer.save(folder)
    return folder
