"""What `--help` says, and that it says it without importing what takes seconds."""

import subprocess
import sys

import pytest

from mdm_lightning.cli import CONF
from mdm_lightning.help import SHARED, explain
from tests.commands.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["train", "evaluate", "sweep"])
def test_every_group_is_explained(name):
    text = explain(f"python {name}.py", name, CONF, [])
    lines = text.splitlines()
    assert lines[0] == f"usage: python {name}.py [group=choice ...] [key=value ...]"
    assert sum(line.startswith(f"  python {name}.py") for line in lines) == 3
    groups = [line.split(maxsplit=1) for line in lines if line.startswith("  ") and "=" in line.split()[0]]
    assert {"trainer=auto", "sampler=mdlm_ancestral"} <= {group[0] for group in groups}
    assert [group for group in groups if len(group) < 2] == []


def test_where_options_of_evaluations_are_is_said_where_there_are_any():
    said = {name: "evaluation.NAME.OPTION" in explain(name, name, CONF, []) for name in ("train", "evaluate", "sweep")}
    assert said == {"train": False, "evaluate": True, "sweep": True}


@pytest.mark.parametrize("folder", sorted(path.name for path in CONF.iterdir() if path.is_dir()))
def test_every_choice_is_explained(folder):
    heading, *lines = explain("mdm-train", "train", CONF, [f"{folder}=anything"]).splitlines()
    assert heading == f"mdm-train {folder}=..."
    assert {line.split()[0] for line in lines} == {p.stem for p in (CONF / folder).glob("*.yaml") if p.stem != SHARED}
    assert [line for line in lines if len(line.split()) < 2] == []


def test_a_group_that_is_not_there_is_said_to_be_none():
    said, usage, *_ = explain("mdm-train", "train", CONF, ["shedule"]).splitlines()
    assert said == "There is no group shedule; did you mean schedule?"
    assert usage.startswith("usage: ")


@pytest.mark.parametrize("arguments", [["--help"], ["-h", "model"]])
def test_help_imports_nothing_that_takes_time(arguments):
    code = f"import sys; sys.argv = {['train.py', *arguments]!r}; from mdm_lightning.cli import train; train()"
    code += "; print({'torch', 'hydra', 'lightning', 'numpy'} & set(sys.modules))"
    asked = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines()[-1] == "set()"
