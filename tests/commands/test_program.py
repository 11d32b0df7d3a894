"""What is printed to be pasted means the same when it comes back."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mdm_lightning.commands.options.resumed_line import _text
from mdm_lightning.commands.program import typed, typed_again, typed_path


@pytest.mark.parametrize(
    "name", ["plain/run-1", "a b (1)", "it's", 'say "so"', "a=b, c", "50% $HOME", "back\\slash", "[x]"]
)
def test_paths_come_back(name):
    path = Path("/runs") / name
    (argument,) = shlex.split(typed_path("ckpt", path))
    assert OverridesParser.create().parse_override(argument).value() == str(path)
    assert _text(dict([argument.split("=", 1)]), "ckpt") == str(path)


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ("train.py", "python evaluate.py"),
        ("/some where/train.py", "python '/some where/evaluate.py'"),
        ("/venv/bin/mdm-train", "mdm-evaluate"),
        ("/other/bin/mdm-train", "/other/bin/mdm-evaluate"),
        ("/site-packages/mdm_lightning/__main__.py", "python -m mdm_lightning evaluate"),
    ],
)
def test_the_next_command_is_typed_as_this_one_was(called, words, monkeypatch):
    monkeypatch.setattr("sys.argv", [called, "ckpt=last"])
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    monkeypatch.setattr("shutil.which", lambda name: f"/venv/bin/{name}")
    assert typed("evaluate") == words


def test_interpreters_of_one_environment_are_one(tmp_path, monkeypatch):
    """``python3`` is the ``python`` that a shell finds if it lies beside it, not if another environment links to it."""
    for environment in ("one", "other"):
        (tmp_path / environment).mkdir()
        for name in ("python", "python3"):
            (tmp_path / environment / name).symlink_to("/bin/sh")
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / "one" / name))
    for environment, word in (("one", "python"), ("other", str(tmp_path / "other" / "python3"))):
        monkeypatch.setattr("sys.executable", str(tmp_path / environment / "python3"))
        assert typed("evaluate") == f"{word} evaluate.py"


def test_what_a_run_does_not_remember_is_typed_again(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["train.py", "cache_dir=a b", "+training.callbacks.x.n=1", "cache_dirs=1", "seed=2"]
    )
    assert typed_again("cache_dir", "training.callbacks") == ["'cache_dir=a b'", "+training.callbacks.x.n=1"]
