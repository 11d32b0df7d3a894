"""Lightning checkpoints of MDLM's and duo's code are read as published, and nothing in them is executed."""

import json
import math
import os
import pickle
import re
import subprocess
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.published.loading import read_published

from . import plain_dit
from .published import DEPTH, HEADS, HIDDEN, ROWS, Published, mdlm, refusal, same


class Arbitrary:
    """A class of the code that wrote the checkpoint, such as its tokenizer."""

    def __init__(self) -> None:
        self.vocabulary = {"a": 1}
        self.seen = {1, 2}


class Words(list):
    """Filled element by element when it is unpickled, and has attributes."""


class Table(dict):
    """Filled item by item when it is unpickled, and has attributes."""


class Slots:
    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept = 1


class Colour(Enum):
    RED = 1


def objects() -> dict[str, object]:
    """What the objects beside the weights may be made of."""
    words, table = Words("abc"), Table(a=1)
    words.kept = table.kept = [1]
    ordered = OrderedDict(a=1)
    ordered.kept = 1
    return {
        "words": words,
        "table": table,
        "ordered": ordered,
        "missing": defaultdict(Table, a=defaultdict(int)),
        "queue": deque([1, 2], maxlen=3),
        "sets": ({1, 2}, frozenset([3])),
        "slots": Slots(),
        "enum": Colour.RED,
        "partial": partial(int, base=2),
        "path": Path("a"),
        "pattern": re.compile("a"),
        "bytes": b"ab",
        "array": np.arange(3),
        "class": Words,
        "long": 10**200,
    }


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def composed(config: dict, folder: Path) -> DictConfig:
    """A configuration that Hydra composed, and of which something was resolved that Hydra remembers."""
    OmegaConf.save(OmegaConf.create(config | {"started": "${now:%Y}"}), folder / "composed.yaml")
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("composed")
    assert config.started.isdigit()
    return config


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
    assert "algo.name: duo" in refusal(tmp_path / "duo.ckpt")


DUOS = {"name": "mdlm", "backbone": "dit", "parameterization": "subs", "time_conditioning": True, "T": 0}


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("code", ["mdlm", "duo"])
def test_files_of_a_run(code, averaged, tmp_path):
    """A configuration that Hydra composed and a tokenizer of many classes: the logits are those of the plain network
    with the averaged weights."""
    published = mdlm(time_conditioning=True)
    content = lightning(published, shadow=averaged, **({"algo": DUOS} if code == "duo" else {}))
    config = OmegaConf.to_container(content["hyper_parameters"]["config"])
    if code == "duo":
        config = {key: config[key] for key in ("algo", "model", "data")}
    content["hyper_parameters"] = {"config": composed(config, tmp_path), "tokenizer": objects(), "vocab_size": ROWS}
    if averaged:
        content["ema"]["shadow_params"] = [0.9 * (value - 1) for value in content["ema"]["shadow_params"]]
    torch.save(content, tmp_path / "last.ckpt")
    model = read_published(tmp_path / "last.ckpt", dtype=torch.float64, vocab_size=published.vocab_size)
    tokens = torch.randint(ROWS, (1, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = model.head(model(tokens, torch.tensor([0.4])))[0]
    weights = {
        name.removeprefix("backbone."): (0.9 * ((value + 1) - 1) if averaged else value).double()
        for name, value in published.weights.items()
    }
    expected = plain_dit.logits(weights, tokens[0].tolist(), -math.log(0.4), DEPTH, HEADS)[:, : ROWS - 1]
    torch.testing.assert_close(result, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algo": DUOS | {"name": "bd3lm"}}, "algo.name: bd3lm"),
        ({"algo": DUOS | {"name": "duo"}}, "algo.name: duo"),
        ({"algo": DUOS | {"causal_attention": True}}, "causal_attention: True"),
        ({"diffusion": "uniform"}, "diffusion: uniform"),
        ({"parameterization": "d3pm"}, "parameterization: d3pm"),
        ({"backbone": "ar"}, "backbone: ar"),
    ],
)
def test_other_diffusions_in_the_same_network(changes, said, tmp_path):
    """Their tensors have the same names, and mean something else."""
    torch.save(lightning(mdlm(), **changes), tmp_path / "other.ckpt")
    assert said in refusal(tmp_path / "other.ckpt")


@pytest.mark.parametrize("kind", ["udlm", "bd3lm", "DUO", "duo"])
def test_other_diffusions_on_the_hub(kind, tmp_path):
    published = mdlm()
    without_time = {key: value for key, value in published.config.items() if key != "time_conditioning"}
    message = refusal(replace(published, config=without_time | {"model_type": kind}).write(tmp_path))
    assert f"says model_type: {kind}" in message
    assert "fetch" not in message
    nothing = {key: value for key, value in published.config.items() if key != "model_type"}
    assert isinstance(read_published(replace(published, config=nothing).write(tmp_path / "nothing")), DiT)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(state_dict=[torch.zeros(1)]),
        lambda content: content["state_dict"].update({"backbone.extra": 3}),
        lambda content: content["state_dict"].update({3: torch.zeros(1)}),
        lambda content: content.update(hyper_parameters=[1]),
        lambda content: content["hyper_parameters"].update(config={"algo": [1], "model": "small"}),
        lambda content: content["hyper_parameters"].update(config={"model": [1]}),
        lambda content: content["state_dict"].update({"backbone.vocab_embed.embedding": torch.zeros(1).expand(99, 99)}),
        lambda content: content["state_dict"].update({"backbone.vocab_embed.embedding": torch.empty(9, device="meta")}),
    ],
)
def test_damaged_or_hostile_files_are_one_line(change, tmp_path):
    content = lightning(mdlm())
    change(content)
    torch.save(content, tmp_path / "bad.ckpt")
    assert "\x1b" not in refusal(tmp_path / "bad.ckpt")


def test_a_file_that_is_cut_short_or_of_another_kind(tmp_path):
    """One whole sentence, without colours."""
    torch.save(lightning(mdlm()), tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-9000])
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Payload(os.mkdir, str(tmp_path / "touched"))))
    for name in ("cut", "script", "pickle"):
        message = refusal(tmp_path / f"{name}.ckpt")
        assert "\x1b" not in message
        assert "no readable file of weights" in message
    assert not (tmp_path / "touched").exists()


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
    "payload",
    [
        lambda path: Payload(exec, f"open({str(path)!r}, 'w')"),
        lambda path: Payload(subprocess.check_output, ["touch", str(path)]),
        lambda path: Payload(os.mkdir, str(path)),
        lambda path: Payload(Path.touch, path),
        lambda path: Payload(getattr(Path, "touch"), path),  # noqa: B009
        lambda path: {Payload(os.mkdir, str(path)): 1},
    ],
    ids=["exec", "subprocess", "os", "method", "getattr", "key"],
)
def test_nothing_in_a_checkpoint_is_executed(payload, tmp_path):
    """Functions named in it are not called: the file is read without them."""
    touched, file = tmp_path / "touched", tmp_path / "payload.ckpt"
    content = lightning(mdlm())
    content["hyper_parameters"]["tokenizer"] = payload(touched)
    torch.save(content, file)
    assert isinstance(read_published(file), DiT)
    assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists()
