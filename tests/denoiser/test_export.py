"""A DiT that is written as MDLM is published comes back with the same logits."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mdm_lightning.commands.export import refuse_occupied
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.published import export
from mdm_lightning.denoiser.published.export import mdlm_layout, write_published
from mdm_lightning.denoiser.published.loading import read_published
from mdm_lightning.errors import UserError
from tests.forkserver import forkserver
from tests.patience import SECONDS

from .published import DEPTH, HEADS, HIDDEN, LENGTH, mdlm

TOKENIZER = Tokenizer(from_characters("abcdefg", special=["<s>", "</s>"]), bos_token="<s>", eos_token="</s>")
METRICS = {"validation perplexity": 23.21, "unigram entropy (nats)": 5.25}


def make(**options) -> DiT:
    sizes = {"hidden_size": HIDDEN, "depth": DEPTH, "heads": HEADS, "cond_dim": 6}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(TOKENIZER.vocab_size, LENGTH, **{**sizes, **options})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits(model: DiT) -> torch.Tensor:
    tokens = torch.randint(TOKENIZER.vocab_size + 1, (3, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.head(model(tokens, torch.tensor([0.9, 0.5, 0.1])))


@pytest.mark.parametrize(
    "options",
    [{}, {"tie_weights": True}, {"time_conditioning": True}, {"mlp_ratio": 2, "heads": 2, "cond_dim": 5}],
    ids=["plain", "tied", "time-conditioned", "other sizes"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(options, dtype, tmp_path):
    model = make(**options).to(dtype)
    write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path / "export", METRICS)
    read = read_published(tmp_path / "export", dtype=dtype, vocab_size=TOKENIZER.vocab_size)
    assert isinstance(read, DiT)
    assert torch.equal(logits(read), logits(model))
    assert (read.length, read.time_conditioning) == (LENGTH, model.time_conditioning)


def test_layout(tmp_path):
    """Names and settings are those that MDLM publishes; MASK's row of the output layer is zero."""
    model, published = make(tie_weights=True), mdlm()
    write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path, METRICS)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == published.weights.keys()
    for name, value in weights.items():
        expected = published.weights[name].shape
        rows = TOKENIZER.vocab_size + 1 if "embed" in name or "output_layer.linear" in name else expected[0]
        assert value.shape == (rows, *expected[1:])
    assert not weights["backbone.output_layer.linear.weight"][-1].any()
    assert weights["backbone.output_layer.linear.bias"][-1] == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert published.config.keys() <= config.keys()
    assert config["vocab_size"] == TOKENIZER.vocab_size + 1


def test_tokenizer(tmp_path):
    """The folder's tokenizer is the run's, special tokens included."""
    model = make()
    write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path, METRICS)
    read = Tokenizer.load(tmp_path)
    assert read.fingerprint == TOKENIZER.fingerprint
    assert (read.bos_id, read.eos_id, read.pad_id) == (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id)


def test_model_card(tmp_path):
    model = make()
    write_published(
        model, mdlm_layout(model), TOKENIZER.state(), tmp_path, METRICS, source="Trained for 10 steps on nothing."
    )
    card = (tmp_path / "README.md").read_text()
    assert "| validation perplexity | 23.21 |" in card
    assert "| unigram entropy (nats) | 5.25 |" in card
    assert "Trained for 10 steps on nothing." in card
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert f"MASK is token {TOKENIZER.mask_id}" in card


def test_an_export_replaces_an_earlier_one(tmp_path):
    for seed, model in enumerate((make(), make(time_conditioning=True))):
        write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path, {"seed": seed})
    assert read_published(tmp_path).time_conditioning is True
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    model = make()
    with pytest.raises(UserError, match="cannot write to"):
        write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path / "file" / "folder", METRICS)


def _killed(folder: str) -> None:
    """An export that is killed when the weights are written."""
    export.save_torch_state_dict = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
    write_published(make(), mdlm_layout(make()), TOKENIZER.state(), Path(folder), METRICS)


def test_a_killed_export_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "model"
    process = forkserver().Process(target=_killed, args=(str(folder),))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()  # whole or absent
    assert [path.name for path in tmp_path.iterdir()] == [f".model.{process.pid}{export.UNFINISHED}"]
    (tmp_path / f".model.{os.getpid()}{export.UNFINISHED}").mkdir()  # of an export that is running
    folder.mkdir()
    (folder / ".export-x").mkdir()  # what earlier versions left
    refuse_occupied(folder)
    model = make()
    write_published(model, mdlm_layout(model), TOKENIZER.state(), tmp_path / "other", METRICS)
    (tmp_path / f".model.{os.getpid()}{export.UNFINISHED}").rmdir()
    write_published(model, mdlm_layout(model), TOKENIZER.state(), folder, METRICS)
    assert torch.equal(logits(read_published(folder, vocab_size=TOKENIZER.vocab_size)), logits(model))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other"}
    assert not list(folder.glob(".*"))
