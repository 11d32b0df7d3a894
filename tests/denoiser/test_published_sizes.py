"""Models of the published sizes: their numbers of parameters, and the memory that reading takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.published.recognition import recognise
from mdm_lightning.denoiser.published.weight_files import Weights
from tests.patience import SECONDS

from . import plain_llama
from .published import ROWS, Published, dream, llada, mdlm

LLADA_8B = llada().config | {
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
}
DREAM_7B = dream().config | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
}
MDLM_OWT = mdlm().config | {
    "hidden_dim": 768,
    "cond_dim": 128,
    "n_blocks": 12,
    "n_heads": 12,
    "model_length": 1024,
    "vocab_size": 50258,
}


@pytest.mark.parametrize(
    ("config", "first", "parameters"),
    [
        (LLADA_8B, plain_llama.LLADA.embedding, 8_015_581_184),
        (DREAM_7B, plain_llama.DREAM.embedding, 7_615_616_512),
        # The hub counts the 32 rotary frequencies and MASK's row of the output layer as well.
        (MDLM_OWT, "backbone.vocab_embed.embedding", 169_627_250 - 32 - 769),
    ],
    ids=["LLaDA-8B", "Dream-7B", "mdlm-owt"],
)
def test_published_sizes(config, first, parameters):
    """The configurations that are on the hub have the numbers of parameters that are stated there."""

    class File:
        shapes = {first: (0, 0)}  # noqa: RUF012

    weights = Weights(Path("published"), (File(),), config)
    family = recognise(weights)
    with torch.device("meta"):
        model = family.denoiser(**family.arguments(weights, None, Unstated()))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


MEASURE = """
import sys
from pathlib import Path
import torch
from mdm_lightning.denoiser.published.loading import read_published

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

read_published(Path(sys.argv[1]), dtype=torch.bfloat16)  # a small one: what reading imports stays
before = peak()
model = read_published(Path(sys.argv[2]), dtype=torch.bfloat16)
print(peak() - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_a_model_needs_its_own_size_in_memory(tmp_path):
    """Reading a file of 64 MiB raises the peak by that and one tensor, not twice that."""
    small = llada(torch.bfloat16)
    rows, width = 1024, 512
    config = small.config | {"embedding_size": rows, "d_model": width, "mlp_hidden_size": 2048, "n_layers": 8}
    shapes = {}
    for name, value in small.weights.items():
        sizes = {16: width, 24: 2048, ROWS: rows}
        shapes[name] = tuple(sizes[size] for size in value.shape)
    block = {name: shape for name, shape in shapes.items() if ".blocks.0." in name}
    for i in range(8):
        shapes |= {name.replace(".blocks.0.", f".blocks.{i}."): shape for name, shape in block.items()}
    weights = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    large = Published(config, weights, vocab_size=rows, mask_row=33)
    command = [sys.executable, "-c", MEASURE, small.write(tmp_path / "small"), large.write(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    growth, size = map(int, done.stdout.split())
    assert size > 60 * 2**20
    assert growth < 1.25 * size
