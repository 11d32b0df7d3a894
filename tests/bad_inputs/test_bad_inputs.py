"""Every bad input of the table is answered by one line that says what is wrong, exit status 1, and nothing else."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs.shell import REPOSITORY
from tests.bad_inputs.table import EVALUATE, SWEEP, TRAIN, rows
from tests.commands.conftest import variables

TABLE = [(script, *row) for script, table in (("train", TRAIN), ("evaluate", EVALUATE), ("sweep", SWEEP))
         for row in rows(table)]  # fmt: skip

# What libraries say of themselves, and no person should have to read.
FOREIGN = (
    "Traceback",
    "TypeError",
    "KeyError",
    "AttributeError",
    "mismatched input",
    "full_key",
    "debug=true",
    "To append to your",
)


@pytest.mark.parametrize(("script", "typed", "answer"), TABLE, ids=[f"{script} {typed}" for script, typed, _ in TABLE])
def test_bad_input(workplace, script, typed, answer):
    outcome, folder = workplace(script, *(typed.split(" ") if typed else []))
    assert outcome.status == 1, outcome.stderr
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, outcome.stderr
    assert answer in errors[0]
    assert not any(word in outcome.stderr for word in FOREIGN), outcome.stderr
    assert not [path for path in folder.rglob("*.ckpt") if path.is_file()]
    assert not (folder / "outputs").exists()


def test_the_table_is_long_enough():
    assert len(set(TABLE)) >= 150


TEXTS = ["0", "false", "42", "1e3", "[a]", "{a:b}", "${HOME} x", "def f(", "it's", 'say "no"', "a=b, c", '"quoted"']


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_it_was_typed(workplace, text):
    samples = ("evaluation=samples", "evaluation.samples.sequences=1", "sampler.steps=2")
    outcome, _ = workplace("evaluate", *samples, f"prompt={text}")
    assert outcome.status == 0, outcome.stderr
    expected = "quoted" if text == '"quoted"' else text
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("  | "))
    assert line.startswith(f"  | {expected}")


def test_text_options_that_look_like_numbers(workplace):
    outcome, folder = workplace("train", "tokenizer=character", "tokenizer.alphabet=0123", "run_dir=2024")
    assert outcome.status == 0, outcome.stderr
    assert "alphabet: '0123'" in (folder / "2024/config.yaml").read_text()


@pytest.mark.parametrize("name", ["a=b", "a b (1)", "it's", "50%", "a,b"])
def test_checkpoints_of_any_name(workplace, name):
    link = workplace.root / f"{name}.ckpt"
    link.symlink_to(workplace.run / "checkpoints/last.ckpt")
    typed = f"ckpt='{link}'" if name == "a,b" else f"ckpt={link}"
    outcome, _ = workplace("evaluate", "evaluation=likelihood", typed)
    assert outcome.status == 0, outcome.stderr


@pytest.mark.parametrize("arguments", [
    ["data.path={f}/mark.jsonl"],
    ["data=toy", "tokenizer=task", "data.path={f}/distribution_mark.json", "model.length=2"],
    ["trainer.precision=64-true"],
])  # fmt: skip
def test_what_works(workplace, arguments):
    outcome, _ = workplace("train", "trainer.max_steps=2", "training.validate_every=2", *arguments)
    assert outcome.status == 0, outcome.stderr


def test_the_command_to_evaluate_by_works_when_pasted(workplace):
    outcome, _ = workplace("train", f"run_dir={workplace.root}/it's (a), b=1", "trainer.max_steps=2")
    assert outcome.status == 0, outcome.stderr
    pasted = next(line for line in outcome.stdout.splitlines() if line.startswith("Evaluate "))
    _, _, script, *arguments = shlex.split(pasted)
    assert script == str(REPOSITORY / "evaluate.py")
    outcome, _ = workplace("evaluate", "evaluation=likelihood", *arguments)
    assert outcome.status == 0, outcome.stderr
    assert "it's (a), b=1" in outcome.stdout + outcome.stderr


# Wrong names and paths, which the files of the configuration and the disk give away, and settings of no object.
KNOWN_EARLY = """
train model=smal
train trainer.max_step=3
train +training.batchsize=4
train training.batch_size=0
train data=files data.path=/nowhere/at/all
train tokenizer=file tokenizer.name_or_path=/nowhere.json
train ckpt=/nowhere
train ckpt=.
evaluate ckpt=/nowhere
evaluate ckpt=.
evaluate ckpt=last
evaluate evaluation=likelihoodd
evaluate schedule=advised advice=/nowhere.json
evaluate schedule=advised advice=.
evaluate scorer=run scorer.ckpt=/nowhere
evaluate sampler=advised
evaluate schedule=advised
train sampler=advised
evaluate evaluation=likelihood sampler.steps=4
evaluate evaluation=task orders=[spaced]
sweep sampler=advised
sweep evaluation=likelihood sampler=llada,maskgit
sweep ckpt=/nowhere
sweep ckpt=.
sweep schedule.alfa=0,1
sweep sweep.alpha=[]
sweep report=/nowhere
"""


@pytest.mark.parametrize("typed", KNOWN_EARLY.strip().splitlines())
def test_what_is_known_early_waits_for_no_import(workplace, tmp_path: Path, typed):
    script, *arguments = typed.split(" ")
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / f"{script}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=variables(workplace.cache), capture_output=True, text=True)
    assert done.returncode == 1
    assert any(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & {"torch", "numpy", "lightning", "matplotlib", "datasets", "transformers"}


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["train trainig.max_steps=1", "sweep data=toy_extremes sweep.alpha=[]"])
def test_as_typed(workplace, tmp_path: Path, typed):
    """In a process of its own, from the first import on."""
    script, *arguments = shlex.split(typed)
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=variables(workplace.cache), capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
