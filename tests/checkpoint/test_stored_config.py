"""What a stored configuration may have built: classes of this package, of the kind that is wanted, and what the user
trusts. Everything here is what somebody might put into a file that somebody else opens."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mdm_lightning.checkpoint.run import build_model, describe, metadata
from mdm_lightning.checkpoint.stored_config import _MOVED, TRUST, build, check_run, plain_copy
from mdm_lightning.data.source import Source
from mdm_lightning.data.tasks.sudoku import Sudoku
from mdm_lightning.data.text.sources import Files
from mdm_lightning.data.text.split import ByCharacter, LastDocuments, Published
from mdm_lightning.data.tokenizer.spec import ByteLevel
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.lora import Adapter, LoRA
from mdm_lightning.diffusion.schedule import BetaSchedule, MaskSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.report.build import build_report
from tests.report.synthetic_sweep import make_cell, write_sweep

DIT: dict[str, Any] = {
    "_target_": "mdm_lightning.denoiser.dit.DiT", "length": 8, "hidden_size": 8, "depth": 1, "heads": 2, "cond_dim": 4,
}  # fmt: skip
TOY = {"_target_": "mdm_lightning.data.tasks.toy.Extremes", "length": 8, "train": 4, "validation": 4, "seed": 0}
TOUCH = {"_target_": "pathlib.Path.touch", "self": "touched"}
SYMPY = "${oc.create:{_target_:sympy.sympify,a:\"__import__('os').system('touch touched')\"}}"
NESTED: list[Any] = []
NESTED.append(NESTED)
LAUGHS: Any = "ha"
for _ in range(30):
    LAUGHS = [LAUGHS, LAUGHS]
DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]

HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "interpolated value": lambda model: model.update(length=SYMPY),
    "interpolated target": lambda model: model.update(_target_="${oc.env:TARGET}"),
    "interpolated key": lambda model: model.update({SYMPY: 1}),
    "interpolation in a list": lambda model: model.update(extra=[[{"a": SYMPY}]]),
    "decoded interpolation": lambda model: model.update(length="${oc.decode:${oc.env:HOME}}"),
    "function of the system": lambda model: model.update(_target_="os.system", command="touch touched"),
    "class of the library": lambda model: model.update(_target_="subprocess.Popen", args=["touch", "touched"]),
    "nested foreign class": lambda model: model.update(extra={"_target_": "subprocess.Popen", "args": ["ls"]}),
    "nested in a list": lambda model: model.update(extra=[{"a": [TOUCH]}]),
    "name that a module of ours imports": lambda model: model.update(
        _target_="mdm_lightning.denoiser.lora.Adapter.__subclasses__"
    ),
    "module of a module of ours": lambda model: model.update(
        _target_="mdm_lightning.commands.launch.subprocess.Popen", args=["touch", "touched"]
    ),
    "class that a module of ours imports": lambda model: model.update(_target_="mdm_lightning.denoiser.dit.nn.Linear"),
    "our class by another module": lambda model: model.update(
        _target_="mdm_lightning.denoiser.published.families.mdlm.DiT"
    ),
    "method of a class of ours": lambda model: model.update(
        _target_="mdm_lightning.data.tokenizer.tokenizer.Tokenizer.load"
    ),
    "function of ours": lambda model: model.update(_target_="mdm_lightning.denoiser.published.loading.read_published"),
    "class of ours of another kind": lambda model: model.update(
        _target_="mdm_lightning.data.text.sources.Files", path="/"
    ),
    "class of ours that writes": lambda model: model.update(
        _target_="mdm_lightning.training.checkpointing.LastCheckpoint", folder=".", every_n_steps=1
    ),
    "module of ours that is a program": lambda model: model.update(_target_="mdm_lightning.evaluation.math_child.main"),
    "abstract class": lambda model: model.update(_target_="mdm_lightning.denoiser.base.Denoiser"),
    "class of another package that is a module": lambda model: model.update(_target_="torch.nn.Module"),
    "functools.partial": lambda model: model.update(_target_="functools.partial", _args_=["os.system"]),
    "hydra's own": lambda model: model.update(_target_="hydra.utils.instantiate", config=TOUCH),
    "partial": lambda model: model.update(_partial_=True),
    "positional arguments": lambda model: model.update(_args_=[40, 8]),
    "not recursive": lambda model: model.update(_recursive_=False),
    "conversion": lambda model: model.update(extra={"_convert_": "object"}),
    "relative module": lambda model: model.update(_target_="mdm_lightning.denoiser..dit.DiT"),
    "no target": lambda model: model.pop("_target_"),
    "target that is no text": lambda model: model.update(_target_=["mdm_lightning.denoiser.dit.DiT"]),
    "argument that is not there": lambda model: model.update(nothing=1),
    "a billion blocks": lambda model: model.update(depth=10**9),
    "a billion channels": lambda model: model.update(hidden_size=10**9, heads=1),
    "a trillion positions": lambda model: model.update(length=10**12),
    "wide conditioning": lambda model: model.update(cond_dim=10**7),
    "wide MLP": lambda model: model.update(mlp_ratio=10**7),
    "a size that is no whole number": lambda model: model.update(depth=1e9),
    "a size that is text": lambda model: model.update(hidden_size="8"),
    "too deep": lambda model: model.update(extra=DEEP),
    "a million copies of one list": lambda model: model.update(extra=LAUGHS),
    "a list in itself": lambda model: model.update(extra=NESTED),
    "a tensor": lambda model: model.update(length=torch.tensor(8)),
    "a set": lambda model: model.update(extra={1, 2}),
}  # fmt: skip


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    """A checkpoint of a small run, as it is saved."""
    tokenizer = ByteLevel().build(list, Path())
    weights = DiT(tokenizer.vocab_size, **{name: value for name, value in DIT.items() if name != "_target_"})
    config = {"model": dict(DIT), "data": dict(TOY), "adapter": None, "trainer": {"_target_": "lightning.Trainer"}}
    return {
        "state_dict": {f"denoiser.{name}": value for name, value in weights.state_dict().items()},
        "global_step": 3,
        "mdm_lightning": metadata(config, tokenizer, "data", None),
    }


def build_from(checkpoint: dict[str, Any], folder: Path) -> Denoiser:
    torch.save(checkpoint, folder / "shared.ckpt")
    return build_model(describe(folder / "shared.ckpt"), vocab_size=257)


def test_own_checkpoint(checkpoint, tmp_path):
    assert isinstance(build_from(checkpoint, tmp_path), DiT)


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_checkpoint_is_one_line(change, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(checkpoint["mdm_lightning"]["config"]["model"])
    with pytest.raises(UserError) as raised:
        build_from(checkpoint, tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert not (tmp_path / "touched").exists()


def hollow(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["denoiser.vocab_embed.embedding"] = torch.zeros(1).expand(10**6, 10**6)


def without_memory(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["denoiser.vocab_embed.embedding"] = torch.empty(10**6, 10**6, device="meta")


def sparse(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["denoiser.vocab_embed.embedding"] = torch.zeros(258, 8).to_sparse()


@pytest.mark.parametrize(
    "change",
    [
        hollow,
        without_memory,
        sparse,
        lambda checkpoint: checkpoint["state_dict"].update(epoch=3),
        lambda checkpoint: checkpoint.update(state_dict=[1]),
        lambda checkpoint: checkpoint.update(global_step="3"),
        lambda checkpoint: checkpoint.update(mdm_lightning=3),
        lambda checkpoint: checkpoint["mdm_lightning"].update(config=None),
        lambda checkpoint: checkpoint["mdm_lightning"].update(base={"origin": ["a", "b"]}),
        lambda checkpoint: checkpoint["mdm_lightning"].update(base={"origin": SYMPY, "fingerprint": ""}),
        lambda checkpoint: checkpoint["mdm_lightning"].update(tokenizer_state=None),
        lambda checkpoint: checkpoint["mdm_lightning"]["config"].update(data=SYMPY),
        lambda checkpoint: checkpoint["mdm_lightning"]["config"].update(trainer={"callbacks": SYMPY}),
    ],
)
def test_a_damaged_checkpoint_is_one_line(change, checkpoint, tmp_path):
    """Weights that are not there, and descriptions of the wrong form."""
    change(checkpoint)
    with pytest.raises(UserError) as raised:
        build_from(checkpoint, tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_built():
    """Exactly what was described, its parts included, with plain containers."""
    split = {
        "_target_": "mdm_lightning.data.text.split.Published",
        "otherwise": {"_target_": "mdm_lightning.data.text.split.ByCharacter", "train_end": 0.5},
    }
    part = build(split, Published, "file")
    assert isinstance(part.otherwise, ByCharacter)
    assert part.otherwise.train_end == 0.5
    adapter = build({"_target_": "mdm_lightning.denoiser.lora.LoRA", "targets": ["query", "value"]}, Adapter, "file")
    assert isinstance(adapter, LoRA)
    assert adapter.targets == ["query", "value"]
    schedule = build({"_target_": "mdm_lightning.diffusion.schedule.BetaSchedule", "alpha": 0.9}, MaskSchedule, "file")
    assert schedule == BetaSchedule(0.9)
    with pytest.raises(UserError, match="alpha must be positive"):
        build({"_target_": "mdm_lightning.diffusion.schedule.BetaSchedule", "alpha": -1}, MaskSchedule, "file")
    source = {"_target_": "mdm_lightning.data.text.sources.Files", "path": ".", "length": 8}
    assert isinstance(build(source, Source, "file"), Files)


def test_own_classes_are_built_for_who_trusts_them(tmp_path, monkeypatch):
    """The error says what to type; what is trusted is a package, not names that begin like it."""
    (tmp_path / "my_models.py").write_text(
        "import subprocess\n"
        "from mdm_lightning.denoiser.dit import DiT\n"
        "class Mine(DiT): pass\n"
        "class Helper: pass\n"
        "def make(**settings): raise AssertionError\n"
    )
    (tmp_path / "my_models_too.py").write_text("raise AssertionError('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    mine = {**DIT, "_target_": "my_models.Mine"}
    with pytest.raises(UserError, match=f"set {TRUST}=my_models"):
        build(mine, Denoiser, "file", vocab_size=5)
    assert "my_models" not in sys.modules
    monkeypatch.setenv(TRUST, "another, my_models")
    assert type(build(mine, Denoiser, "file", vocab_size=5)).__name__ == "Mine"
    for other in ("my_models_too.Mine", "my_models.Helper", "my_models.make", "my_models.subprocess.Popen"):
        with pytest.raises(UserError, match=r"is not built|not installed"):
            build({**DIT, "_target_": other}, Denoiser, "file", vocab_size=5)


@pytest.mark.parametrize(
    "schedule",
    [
        {"_target_": "subprocess.Popen", "args": ["touch", "touched"]},
        {"_target_": "mdm_lightning.diffusion.schedule.BetaSchedule", "alpha": SYMPY},
        {"_target_": "mdm_lightning.data.text.sources.Files", "path": "/"},
    ],
)
def test_a_sweep_folder_from_somebody_else(schedule, tmp_path, monkeypatch):
    """``sweep.py report=FOLDER`` builds schedules, and nothing else that the cells name."""
    monkeypatch.chdir(tmp_path)
    cells = [make_cell((0.9, 0.3), 16, lift=lift) for lift in (3.0,)] + [make_cell("linear", 16, lift=0.0)]
    folder = write_sweep(tmp_path / "sweep", cells)
    for path in (folder / "cells").glob("*beta*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schedule_config": schedule}))
    with pytest.raises(UserError) as raised:
        build_report(folder)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "touched").exists()


def test_configurations_of_whole_runs():
    """What a run is gone on with may name what conf/ could have chosen, and nothing else."""
    config = {
        "trainer": {
            "_target_": "lightning.Trainer",
            "strategy": {"_target_": "mdm_lightning.training.strategy.FullySharded"},
        },
        "logger": {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "."}},
        "optimizer": {"_target_": "mdm_lightning.training.optimizer.AdamW", "lr": 1e-3},
        "training": {"masking": {"_target_": "mdm_lightning.diffusion.masking.CountMasking"}},
        "model": DIT,
    }
    assert check_run(config, "file") == config
    for foreign in (
        {"callbacks": {"a": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/"}}},
        {"callbacks": {"a": {"_target_": "mdm_lightning.training.checkpointing.LastCheckpoint", "folder": "/"}}},
        {"strategy": {"_target_": "lightning.Trainer.fit"}},
        {"cache_dir": "${oc.env:HOME}"},
    ):
        with pytest.raises(UserError, match="file"):
            check_run(config | {"extra": foreign}, "file")


def test_hydra_builds_nothing_dangerous_either(tmp_path):
    """Composed configurations go to Hydra, of a version that refuses what runs commands."""
    touched = tmp_path / "touched"
    for target in ("os.system", "subprocess.run", "builtins.eval", "posix.system"):
        config = OmegaConf.create({"_target_": target, "_args_": [f"touch {touched}"]})
        with pytest.raises(Exception, match=r"blocklisted|blocked|cannot be instantiated"):
            instantiate(config)
    assert not touched.exists()


def test_no_module_of_the_package_reads_yaml_with_tags(tmp_path):
    """Importing what decides about stored configurations runs nothing of them, and needs no Lightning."""
    code = "import sys, mdm_lightning.checkpoint.stored_config; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0


def test_checkpoints_of_the_time_before_modules_moved_are_read(tmp_path):
    """What version 0.1 called its sources of data, tasks, tokenizers and schedules."""
    named = {
        "_target_": "mdm_lightning.data.sudoku.Sudoku",
        "tokenizer": {"_target_": "mdm_lightning.data.tokenizer_spec.ByteLevel"},
        "split": [{"_target_": "mdm_lightning.data.split.LastDocuments", "documents": 1}],
    }
    plain = plain_copy(named, tmp_path)
    assert plain["_target_"] == f"{Sudoku.__module__}.Sudoku"
    assert plain["tokenizer"]["_target_"] == f"{ByteLevel.__module__}.ByteLevel"
    assert plain["split"][0]["_target_"] == f"{LastDocuments.__module__}.LastDocuments"
    for module in _MOVED.values():
        importlib.import_module(module)
