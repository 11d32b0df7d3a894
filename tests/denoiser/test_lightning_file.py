"""Lightning checkpoints of MDLM's and duo's code are read as published, and nothing in them is executed."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mdm_lightning.denoiser.checkpoints import read_published
from mdm_lightning.denoiser.dit import DiT

from .published import DEPTH, HEADS, HIDDEN, Published, mdlm, refusal, same


class Arbitrary:
    """A class of the code that wrote the checkpoint, such as its tokenizer."""

    def __init__(self) -> None:
        self.vocabulary = {"a": 1}
        self.seen = {1, 2}


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def lightning(published: Published, shadow: bool = True, **changes) -> dict:
    """A checkpoint as MDLM's code writes it, the averaged weights one larger than the others."""
    config = {
        "backbone": "dit",
        "parameterization": "subs",
        "time_conditioning": published.config["time_conditioning"],
        "T": 0,
        "model": {
            "name": "small",
            "type": "ddit",
            "hidden_size": HIDDEN,
            "cond_dim": published.config["cond_dim"],
            "length": published.config["model_length"],
            "n_blocks": DEPTH,
            "n_heads": HEADS,
        },
        "data": {"cache_dir": "${model.name}/cache", "list": [1, 2]},
    } | changes
    parameters = [value + 1 for name, value in published.weights.items() if "inv_freq" not in name]
    average = {"ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": parameters}} if shadow else {}
    return {
        "epoch": 0,
        "global_step": 3,
        "state_dict": dict(published.weights),
        "hyper_parameters": {"config": OmegaConf.create(config), "tokenizer": Arbitrary()},
        "optimizer_states": [{"state": {}}],
        **average,
    }


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_lightning_checkpoint(time_conditioning, tmp_path):
    """The averaged weights; without an average, the weights."""
    published, file = mdlm(time_conditioning=time_conditioning), tmp_path / "mdlm.ckpt"
    hub = read_published(published.write(tmp_path / "hub"))
    torch.save(lightning(published, shadow=False), file)
    model = read_published(file, vocab_size=published.vocab_size)
    assert isinstance(model, DiT)
    assert same(model.state_dict(), hub.state_dict())
    assert (model.length, model.time_conditioning) == (hub.length, time_conditioning)
    torch.save(lightning(published), file)
    averaged = dict(read_published(file).named_parameters())
    assert all(torch.equal(averaged[name], value + 1) for name, value in hub.named_parameters())


def test_duos_configuration(tmp_path):
    """It says under ``algo`` what MDLM's says at the top; duo's own uniform-state models are refused."""
    algorithm = {"name": "mdlm", "backbone": "dit", "parameterization": "subs", "time_conditioning": True}
    content = lightning(mdlm(), algo=algorithm)
    torch.save(content, tmp_path / "mdlm.ckpt")
    assert read_published(tmp_path / "mdlm.ckpt").time_conditioning is True
    content = lightning(mdlm(), algo=algorithm | {"name": "duo", "parameterization": "mean"})
    torch.save(content, tmp_path / "duo.ckpt")
    assert "parameterization mean" in refusal(tmp_path / "duo.ckpt")


def test_average_that_does_not_fit(tmp_path):
    content = lightning(mdlm())
    content["ema"]["shadow_params"].pop()
    torch.save(content, tmp_path / "short.ckpt")
    assert "averaged weights (ema.shadow_params) that do not fit" in refusal(tmp_path / "short.ckpt")


def test_lightning_checkpoint_without_a_configuration(tmp_path):
    """Length and conditioning cannot be guessed; a config.json beside it says them."""
    published, file = mdlm(), tmp_path / "mdlm.ckpt"
    content = lightning(published)
    del content["hyper_parameters"]
    torch.save(content, file)
    assert "does not say vocab_size" in refusal(file)
    (tmp_path / "config.json").write_text(json.dumps(published.config))
    assert isinstance(read_published(file), DiT)


@pytest.mark.parametrize(
    ("payload", "readable"),
    [
        (lambda path: Payload(exec, f"open({str(path)!r}, 'w')"), True),
        (lambda path: Payload(subprocess.check_output, ["touch", str(path)]), True),
        (lambda path: Payload(os.mkdir, str(path)), False),
        (lambda path: Payload(Path.touch, path), False),
    ],
    ids=["exec", "subprocess", "os", "method"],
)
def test_nothing_in_a_checkpoint_is_executed(payload, readable, tmp_path):
    """Functions named in it are not called: the file is read without them, or refused."""
    touched, file = tmp_path / "touched", tmp_path / "payload.ckpt"
    content = lightning(mdlm())
    content["hyper_parameters"]["tokenizer"] = payload(touched)
    torch.save(content, file)
    if readable:
        assert isinstance(read_published(file), DiT)
    else:
        assert "which is not run" in refusal(file)
    assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists()
