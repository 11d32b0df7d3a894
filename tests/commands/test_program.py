"""What is printed to be pasted means the same when it comes back."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mdm_lightning.commands.program import typed, typed_path
from mdm_lightning.commands.resume import _text


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
        ("/somewhere/train.py", "python evaluate.py"),
        ("/venv/bin/mdm-train", "mdm-evaluate"),
        ("/site-packages/mdm_lightning/__main__.py", "python -m mdm_lightning evaluate"),
    ],
)
def test_the_next_command_is_typed_as_this_one_was(called, words, monkeypatch):
    monkeypatch.setattr("sys.argv", [called, "ckpt=last"])
    assert typed("evaluate") == words
