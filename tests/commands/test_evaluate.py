"""`python evaluate.py` on what `python train.py` made."""

import csv
import json
import math
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdm_lightning.files import from_json
from tests.commands.conftest import incident, scalars

TWO = ("trainer=ddp", "trainer.devices=2")
NO_JUDGE = "/nowhere" if find_spec("transformers") else "mdm-lightning[scorer]"


def rows_of(folder: Path) -> list[dict]:
    """The rows of results.json, after a check that results.csv has the same."""
    rows = from_json((folder / "results.json").read_text())
    with (folder / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for line, row in zip(table, rows, strict=True):
        assert list(line) == ["evaluation", "metric", "value", "stderr", "n", "better", "settings"]
        assert (line["evaluation"], line["metric"], int(line["n"])) == (row["evaluation"], row["metric"], row["n"])
        assert float(line["value"]) == pytest.approx(row["value"], rel=0, abs=0, nan_ok=True)
        assert line["stderr"] == ("" if row["stderr"] is None else str(row["stderr"]))
        for name, value in row["settings"].items():
            assert f"{name}: {value}" in line["settings"]
        if row["scores"] is not None:
            assert len(row["scores"]) == row["n"]
            assert float(row["value"]) == pytest.approx(math.fsum(row["scores"]) / row["n"])
    return rows


def numbers(folder: Path) -> list[dict]:
    """Everything but the speed."""
    return [row for row in rows_of(folder) if row["metric"] != "tokens_per_second"]


def value(rows: list[dict], metric: str, evaluation: str | None = None) -> float:
    return next(row["value"] for row in rows if row["metric"] == metric and evaluation in (None, row["evaluation"]))


def evaluations(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["evaluation"] for row in rows))


@pytest.fixture
def numbered(evaluate, tmp_path):
    """Evaluates into a numbered folder, and returns it."""
    folders = iter(range(100))

    def run(*arguments: str) -> Path:
        folder = tmp_path / f"numbers{next(folders)}"
        outcome = evaluate(*arguments, f"run_dir={folder}")
        assert outcome.status == 0, outcome.stderr
        return folder

    return run


def test_everything_that_suits_text(evaluate, text_model, tmp_path):
    shutil.copytree(text_model, tmp_path / "outputs/train/run")
    outcome = evaluate(
        "ckpt=last", "run_dir=numbers", "sampler.steps=4", "evaluation.sequences=12", "logger=tensorboard"
    )
    assert outcome.status == 0, outcome.stderr
    rows = rows_of(tmp_path / "numbers")
    assert evaluations(rows) == ["likelihood", "profile", "generation", "samples"]
    for name in evaluations(rows):
        assert f"**{name}**" in outcome.stdout
    assert outcome.stdout.count("samples/") == 4
    # Forward passes are those that were made.
    assert 0 < value(rows, "forward_passes") <= 4
    assert {"profile.json", "profile.png", "results.csv", "results.json"} <= set(
        path.name for path in (tmp_path / "numbers").iterdir()
    )
    logged = scalars(tmp_path / "numbers")
    assert logged["likelihood/perplexity"] == {10: pytest.approx(value(rows, "perplexity"), rel=1e-6)}
    board = EventAccumulator(str(tmp_path / "numbers"), size_guidance={"tensors": 0}).Reload()
    assert "custom_scalars__config__" in board.Tags()["tensors"]
    (table,) = board.Tensors("results/likelihood/text_summary")
    assert table.tensor_proto.string_val[0].decode().splitlines()[2] == "| metric | value | std. error | n |"


def test_the_likelihood_is_that_of_the_last_validation(numbered, text_model):
    """The same sequences and weights, other masks: equal within five standard errors, by chance once in 1e6."""
    (row, *_) = rows_of(numbered(f"ckpt={text_model}", "evaluation=likelihood"))
    trained = json.loads((text_model / "results.json").read_text())["metrics"]["val/loss"]
    assert abs(row["value"] - trained) < 5 * row["stderr"]


def test_a_checkpoint_needs_nothing_of_its_run_folder(numbered, text_model, tmp_path):
    shutil.copy(text_model / "checkpoints/last.ckpt", tmp_path / "bare.ckpt")
    options = ("evaluation=[likelihood,samples]", "sampler.steps=2")
    assert numbers(numbered("ckpt=bare.ckpt", *options)) == numbers(numbered(f"ckpt={text_model}", *options))


def test_other_text(numbered, text_model, tmp_path):
    """Zero-shot, by the checkpoint's tokenizer."""
    for number in range(40):
        (tmp_path / f"{number}.md").write_text(
            f"{number} Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. " * 9
        )
    own = rows_of(numbered(f"ckpt={text_model}", "evaluation=likelihood"))
    other = rows_of(numbered(f"ckpt={text_model}", "evaluation=likelihood", "data=files", f"data.path={tmp_path}/*.md"))
    assert {row["settings"]["data"] for row in other} == {"files"}
    assert (other[0]["n"], other[0]["value"]) != (own[0]["n"], own[0]["value"])
    # Its tokens are bytes, but for the ends of documents, which have none.
    bits_per_token = value(other, "nelbo_nats_per_token") / math.log(2)
    assert bits_per_token < value(other, "bits_per_byte") < 1.1 * bits_per_token


def test_everything_that_suits_a_task(numbered, task_model):
    rows = rows_of(numbered(f"ckpt={task_model}", "sampler.steps=4"))
    assert evaluations(rows) == ["likelihood", "profile", "task", "samples"]
    assert 0 < value(rows, "accuracy") <= value(rows, "valid") <= 1
    assert next(row for row in rows if row["metric"] == "accuracy")["n"] == 40


def test_numbers_do_not_depend_on_the_weather(numbered, task_model):
    options = (f"ckpt={task_model}", "evaluation=[likelihood,task]", "sampler.steps=3")
    once, again = numbers(numbered(*options)), numbers(numbered(*options))
    assert once == again
    assert numbers(numbered(*options, "seed=1")) != once


def test_what_a_cache_changes_and_costs(numbered, task_model):
    """Texts that end early, too; a cache that keeps nothing changes nothing."""
    options = ("sampler=fast_dllm", "sampler.blocks.length=4", "eos.early_end=true", "evaluation.sequences=8")
    kept = rows_of(numbered(f"ckpt={task_model}", "evaluation=caching", "cache=dual", *options))
    changed = [row["value"] for row in kept if row["metric"] == "tokens_changed"]
    positions = {row["settings"]["cache"]: row["value"] for row in kept if row["metric"] == "tokens_computed"}
    assert 0 <= changed[0] <= 1
    assert positions["DualCache"] < positions["none"]
    refreshed = rows_of(numbered(f"ckpt={task_model}", "evaluation=caching", "cache=dual", "cache.every=1", *options))
    assert [row["value"] for row in refreshed if row["metric"] == "tokens_changed"] == [0]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(numbered, text_model):
    options = (f"ckpt={text_model}", "evaluation.batch_size=3", "evaluation.sequences=8", "sampler.steps=4")
    assert numbers(numbered(*options, *TWO)) == numbers(numbered(*options))


@pytest.mark.ddp
def test_ranks_that_torchrun_has_started_share_the_work(evaluate, task_model, numbered, tmp_path):
    options = (f"ckpt={task_model}", "evaluation=[task,profile]", "evaluation.batch_size=7", "sampler.steps=3")
    first, second = evaluate.on_two_ranks(*options, f"run_dir={tmp_path}/two", *TWO)
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert "results.csv" in first.stdout
    assert "results.csv" not in second.stdout
    assert numbers(tmp_path / "two") == numbers(numbered(*options))


@pytest.mark.ddp
def test_an_error_on_one_rank_is_everybodys(evaluate, task_model, tmp_path):
    options = (f"ckpt={task_model}", "evaluation=likelihood", "sampler.steps=3", *TWO, f"run_dir={tmp_path}/two")
    first, second = evaluate.on_two_ranks(*options, *incident("raise", 3, rank=1))
    assert (first.status, second.status) == (1, 1)
    assert first.error == "error: rank 1: RuntimeError: a cosmic ray"
    assert "[rank 1] error: RuntimeError: a cosmic ray" in second.stderr
    assert evaluations(rows_of(tmp_path / "two")) == ["likelihood"]  # what was finished is kept


def test_prompt_suffix_and_trajectory(evaluate, text_model, tmp_path):
    outcome = evaluate(
        f"ckpt={text_model}", "evaluation=samples", "prompt='or not, '", "suffix=' be!'", "trajectory=true",
        "sampler.steps=5", "run_dir=out",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    shown = outcome.stdout.replace("\n  | ", "")
    assert shown.count("samples/0:or not, ") == 1
    page = (tmp_path / "out/trajectory.html").read_text()
    assert page.count('class="given"') == 4 * len("or not,  be!")
    assert page.count("<pre>") == 4


def test_advice_can_be_taken(numbered, text_model):
    ask = ("evaluation=advise", "evaluation.steps=[2,4]", "evaluation.advise.profile.sequences=8")
    advice = numbered(f"ckpt={text_model}", *ask) / "advice.json"
    take = ("schedule=advised", f"advice={advice}", "sampler.steps=4")
    rows = rows_of(numbered(f"ckpt={text_model}", "evaluation=samples", *take))
    alpha, beta = json.loads(advice.read_text())["4"]["beta"]
    assert rows[0]["settings"]["schedule"] == f"Beta({alpha:g}, {beta:g})"


def test_the_advised_sampler_can_be_taken(evaluate, text_model, tmp_path):
    """The printed command has the model, and samples with the order and schedule that were found."""
    ask = ("evaluation=advise", "evaluation.steps=[2,4]", "evaluation.advise.profile.sequences=8", "run_dir=asked")
    ask += ("sampler=expected_random", "orders=[spaced,left_to_right]", "evaluation.advise.race.instances=12")
    ask += ("evaluation.advise.race.first=6", "evaluation.advise.race.confirm=8")
    outcome = evaluate(f"ckpt={text_model}", *ask)
    command = next(line for line in outcome.stdout.splitlines() if "Use it: " in line).partition("Use it: ")[2]
    words = shlex.split(command)
    assert words[1].endswith("evaluate.py")
    assert f"ckpt={text_model}" in words
    outcome = evaluate(*words[2:], "evaluation=samples", "run_dir=taken")
    assert outcome.status == 0, outcome.error
    settings = rows_of(tmp_path / "taken")[0]["settings"]
    known = json.loads((tmp_path / "asked/advice.json").read_text())["2"]["sampler"]
    assert known["order"]["_target_"].endswith(f".{settings['order']}")
    assert known["count"]["_target_"].endswith(f".{settings['count']}")
    assert settings["steps"] == known["steps"] == 2


def test_an_interrupted_evaluation_keeps_its_rows(evaluate, text_model, tmp_path):
    options = incident("interrupt", 3)
    outcome = evaluate(
        f"ckpt={text_model}", "evaluation=likelihood", "sampler.steps=3", "run_dir=out", "logger=csv", *options
    )
    assert outcome.status == 130
    assert outcome.stderr.splitlines()[-1] == "interrupted"
    assert "**likelihood**" in outcome.stdout
    assert evaluations(rows_of(tmp_path / "out")) == ["likelihood"]


def test_loggers_receive_the_rows(numbered, text_model):
    folder = numbered(f"ckpt={text_model}", "evaluation=likelihood", "logger=csv")
    with next(folder.rglob("metrics.csv")).open() as file:
        lines = list(csv.DictReader(file))
    assert {line["step"] for line in lines} == {"10"}
    for row in rows_of(folder):
        (logged,) = (line[f"likelihood/{row['metric']}"] for line in lines if line[f"likelihood/{row['metric']}"])
        assert float(logged) == pytest.approx(row["value"])


def test_an_autoregressive_twin_scores_text(train, evaluate, sweep, numbered, text_model, tmp_path):
    """It is evaluated by the command that its training printed, and scores what another model generates."""
    trained = train(
        "model=ar", "model.hidden_size=16", "model.length=32", "run_dir=twin", "training.validation_sequences=null"
    )
    assert trained.status == 0, trained.stderr
    assert "nats/token (exact; averaged weights)" in trained.stdout
    (hint,) = re.findall("Evaluate .*evaluate.py (.*)", trained.stdout)
    rows = rows_of(numbered(*hint.split(), "evaluation=[likelihood,samples]"))
    results = json.loads((tmp_path / "twin/results.json").read_text())["metrics"]
    assert value(rows, "nelbo_nats_per_token") == pytest.approx(results["val/loss"], rel=1e-5)

    frontier = ("evaluation=frontier", "evaluation.frontier.temperatures=[0.7,1.0]", "evaluation.sequences=4")
    own = rows_of(numbered(f"ckpt={text_model}", *frontier, "scorer=run", "scorer.ckpt=twin", "sampler.steps=4"))
    assert value(own, "scorer_nats_per_token") > 0
    assert any(row["metric"] == "scorer_nats_at_entropy" for row in own)
    for arguments, words in (
        ([f"ckpt={text_model}", *frontier, "scorer=run", f"scorer.ckpt={text_model}"], "masked diffusion model"),
        ([f"ckpt={text_model}", "evaluation=likelihood", "estimator=next_token"], "read the answers"),
        (["ckpt=twin", "evaluation=likelihood", "estimator=count"], "leave estimator= out"),
        (["ckpt=twin", "evaluation=samples"], "sampler=left_to_right schedule=linear sampler.steps=null"),
    ):
        refused = evaluate(*arguments)
        assert refused.status == 1
        assert words in refused.error
    ask = ("ckpt=twin", "evaluation=generation", "sweep.limit=2", "sweep.profile=null", "sweep.dir=swept")
    refused = sweep(*ask, "sampler.steps=2,4")
    assert refused.status == 1
    assert "no cell of this sweep suits" in refused.error
    assert not list((tmp_path / "swept").rglob("*.json"))
    choice = ("sampler=left_to_right", "schedule=linear", "sampler.steps=null", "sweep.baselines=[]")
    outcome = sweep(*ask, *choice, "tokens.temperature=0.5,1")
    assert outcome.status == 0, outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["needs a checkpoint"]),
        (["ckpt=nowhere.ckpt"], ["nowhere.ckpt does not exist"]),
        (["ckpt=last"], ["no run in outputs"]),
        (["ckpt={text}", "evaluation=task"], ["evaluation=task needs a checkpoint of a task", "data=sudoku"]),
        (["ckpt={task}", "evaluation=generation"], ["for text", "evaluation=task"]),
        (["ckpt={text}", "evaluation=nonsense"], ["evaluation=nonsense", "likelihood"]),
        (["ckpt={text}", "evaluation=[]"], ["nothing to evaluate"]),
        (["ckpt={text}", "data=sudoku_4x4"], ["data=sudoku_4x4", "another tokenizer"]),
        (["ckpt={task}", "data=files", "data.path=."], [". contains none of .txt"]),
        (["ckpt={text}", "sampler.steps=0"], ["steps must be a positive integer, got 0"]),
        (["ckpt={text}", "schedule=beta", "schedule.alpha=-1"], ["alpha must be positive"]),
        (["ckpt={text}", "schedule=advised"], ["needs advice=FILE"]),
        (["ckpt={text}", "evaluation=task", "evaluation.batch_size=0"], ["batch_size must be at least 1"]),
        (["ckpt={text}", "evaluation=likelihood", "evaluation.first=1000000"], ["none from 1000000 on"]),
        (["ckpt={text}", "evaluation=samples", "prompt=" + "x" * 40], ["leaves no room in 32"]),
        (["ckpt={task}", "evaluation=samples", "prompt=hello"], ["no tokens for some characters of 'hello'"]),
        (["ckpt={text}", "trainer.devices=100000"], ["trainer.devices=100000", "CPU core"]),
        (["ckpt={text}", "trainer.accelerator=gpu"], ["this machine has 0 GPUs"]),
        (["ckpt={text}", "trainer.accelerator=tpu"], ["trainer.accelerator=tpu"]),
        (["ckpt={text}", "trainer.precision=8-bit"], ["trainer.precision=8-bit", "32-true"]),
        (["ckpt={text}", "scorer=hf", "evaluation=generation", "scorer.path=/nowhere"], [NO_JUDGE]),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated(evaluate, text_model, task_model, arguments, words):
    outcome = evaluate(*(a.replace("{text}", str(text_model)).replace("{task}", str(task_model)) for a in arguments))
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


def test_damaged_checkpoints(evaluate, text_model, tmp_path):
    content = (text_model / "checkpoints/last.ckpt").read_bytes()
    middle = len(content) // 2
    for name, damaged in (("half", content[:middle]), ("empty", b""), ("text", b"hello")):
        (tmp_path / f"{name}.ckpt").write_bytes(damaged)
        assert f"{name}.ckpt is not a readable checkpoint" in evaluate(f"ckpt={name}.ckpt").error
