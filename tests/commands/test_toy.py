"""Distributions that can be enumerated, as users type them: with no checkpoint, and with a network trained on one."""

import csv
import json
import math
from dataclasses import replace

import pytest

from mdm_lightning.evaluation.description import configuration
from mdm_lightning.files import to_json
from mdm_lightning.sampling.presets import expected_random
from tests.commands.conftest import scalars

TABLE = {
    ("extremes", 0.5, 0.5): (0.405093, 0.519350),
    ("extremes", 1.0, 1.0): (0.388184, 0.491323),
    ("extremes", 0.9, 0.3): (0.386691, 0.488886),
    ("balanced", 0.5, 0.5): (0.116913, 0.124332),
    ("balanced", 0.9, 0.3): (0.291018, 0.343924),
    ("balanced", 0.3, 0.9): (0.185520, 0.205205),
}
"""Total variation and KL(distribution || sampler) at three steps, by distribution and Beta schedule (the paper's figure
4)."""

SWEEP = (
    "experiment=toy",
    "sampler.steps=3",
    "trainer.enable_progress_bar=false",
    "sweep.dir=sweep",
    "logger=none",
    "sweep.baselines=[]",
)


def cells(folder) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")]


def results(folder) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("distribution", ["extremes", "balanced"])
def test_a_sweep_reproduces_the_papers_toy(start, tmp_path, distribution):
    axes = ("schedule.alpha=0.3,0.5,0.9,1.0", "schedule.beta=0.3,0.5,0.9,1.0")
    outcome = start(*SWEEP, "-m", f"data=toy_{distribution}", *axes, script="sweep.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    assert "kl (lower is better)" in outcome.stdout
    measured = {
        (distribution, cell["alpha"], cell["beta"]): cell["rows"] for cell in cells(tmp_path / "sweep") if cell["alpha"]
    }
    assert len(measured) == 16
    for key in (key for key in TABLE if key[0] == distribution):
        values = {row["metric"]: row["value"] for row in measured[key]}
        assert (values["tv"], values["kl"]) == pytest.approx(TABLE[key], abs=1e-6)
        assert values["kl"] <= 5 * values["predicted_gap"] + 0.05, "the gap is a bound, here measured on a sample"


def test_what_a_sampler_does_not_look_at_is_no_axis(start, tmp_path):
    """First hitting reveals one position per pass: of three schedules at two budgets one cell remains, and its column
    is not called after a budget."""
    axes = ("schedule.alpha=0.5,0.9", "schedule.beta=0.3", "sampler=first_hitting,mdlm_ancestral", "sampler.steps=2,4")
    options = [option for option in SWEEP if option not in ("sampler.steps=3", "sweep.baselines=[]")]
    outcome = start(*options, "-m", *axes, "sweep.baselines=[linear]", script="sweep.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    found = [(cell["sampler"], cell["schedule"], cell["alpha"], cell["steps"]) for cell in cells(tmp_path / "sweep")]
    ancestral = [("mdlm_ancestral", *schedule, steps) for steps in (2, 4)
                 for schedule in (("linear", None), ("beta", 0.5), ("beta", 0.9))]  # fmt: skip
    assert sorted(found, key=str) == sorted([("first_hitting", "any", None, None), *ancestral], key=str)
    assert "| any schedule | **0.0" in outcome.stdout
    assert "one step per token: the schedule does not matter" in outcome.stdout
    assert "± " not in outcome.stdout


def test_a_sweep_over_orders_by_the_samplers_own_likelihood(start, tmp_path):
    """In five steps every order draws from the distribution, uniform on 20 sequences; in two, none costs less than its
    entropy, and the rows say which numbers are bounds."""
    options = ["data=toy_balanced", "evaluation=likelihood", "estimator=policy", *SWEEP[2:], "sweep.limit=40"]
    axes = ("sampler=spaced", "order=random,entropy,spaced", "schedule=linear", "sampler.steps=2,5")
    outcome = start(*options, "-m", *axes, script="sweep.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    found = {(cell["axes"]["order"], cell["steps"]): cell["rows"][0] for cell in cells(tmp_path / "sweep")}
    assert len(found) == 6
    for (order, steps), row in found.items():
        assert row["metric"] == "policy_nats_per_token"
        assert row["settings"]["likelihood"].startswith("exact" if order == "entropy" else "bound")
        assert len(row["scores"]) == row["n"] == 40
        if steps == 5:
            assert row["scores"] == pytest.approx([math.log(20) / 5] * 40, rel=1e-5)
        else:
            assert row["value"] > math.log(20) / 5 + 0.01


def test_a_sweep_sets_advised_samplers_beside_others(start, tmp_path):
    """Advice knows its own budgets only, and they are those of the axis; its schedule is no other sampler's."""
    advised = {str(steps): {"sampler": configuration(replace(expected_random(), steps=steps))} for steps in (3, 4)}
    (tmp_path / "advice.json").write_text(to_json(advised))
    axes = ("sampler=advised,mdlm_ancestral", "schedule=linear", "sampler.steps=3,4", "advice=advice.json")
    options = [option for option in SWEEP if option != "sampler.steps=3"]
    outcome = start(*options, *axes, script="sweep.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    found = {(cell["sampler"], cell["schedule"], cell["steps"]) for cell in cells(tmp_path / "sweep")}
    samplers = (("mdlm_ancestral", "linear"), ("advised", "any"))
    assert found == {(*sampler, steps) for sampler in samplers for steps in (3, 4)}


def test_evaluating_a_distribution_from_a_file(start, tmp_path):
    (tmp_path / "distribution.json").write_text('{"sequences": ["ab", "ba"], "probabilities": [0.25, 0.75]}')
    arguments = ("experiment=toy", "data=toy", "data.path=distribution.json", "run_dir=out")
    assert start(*arguments, "sampler.steps=1", script="evaluate.py", tiny=False).wait().status == 0
    # One step draws both letters from their margins: p(ab) = 1/16 and p(ba) = 9/16.
    values = results(tmp_path / "out")
    assert float(values["tv"]["value"]) == pytest.approx(3 / 16 + 3 / 16, abs=1e-9)
    assert float(values["kl"]["value"]) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3), abs=1e-9)
    assert int(values["kl"]["n"]) == 4


def test_likelihood_and_samples_of_an_exact_denoiser(start, tmp_path):
    """Its NELBO is the distribution's entropy, log 20 nats per sequence of 5; its samples are spelled in full."""
    arguments = ("data=toy_balanced", "evaluation=[likelihood,samples]", "sampler.steps=64", "run_dir=out")
    outcome = start(*arguments, script="evaluate.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    row = results(tmp_path / "out")["nelbo_nats_per_token"]
    assert abs(float(row["value"]) - math.log(20) / 5) < 5 * float(row["stderr"])
    samples = [line.strip("| ") for line in outcome.stdout.splitlines() if line.startswith("  | ")]
    assert samples
    assert all(set(sample) == {"a", "b"} and len(sample) == 5 for sample in samples)


def test_a_network_trained_on_a_toy(start, train, tmp_path):
    """Its own output distribution: after training the two distances are below those of a network that knows nothing."""
    trained = train(
        "run_dir=run", "data=toy_extremes", "tokenizer=task", "trainer.max_steps=60",
        "training.validate_every=30", "training.validation_sequences=200", "training.global_batch_size=32",
        "training.batch_size=32", "logger=tensorboard",
    )  # fmt: skip
    assert trained.status == 0, trained.stderr
    logged = scalars(tmp_path / "run")
    assert {f"val/nelbo_at_{steps}/{name}" for steps in (8, 32) for name in ("linear", "squared_sine")} <= set(logged)
    assert all(set(logged[tag]) == set(logged["val/loss"]) for tag in logged if tag.startswith("val/nelbo_at_"))
    outcome = start(
        "ckpt=run",
        "experiment=toy",
        "sampler.steps=5",
        "count=expected",
        "run_dir=out",
        script="evaluate.py",
        tiny=False,
    ).wait()
    assert outcome.status == 0, outcome.stderr
    values = {metric: float(row["value"]) for metric, row in results(tmp_path / "out").items()}
    assert 0 < values["tv"] < 15 / 16  # of the uniform distribution on 32 sequences
    assert 0 < values["kl"] < math.log(16)


def test_what_has_no_exact_distribution(start, train, tmp_path):
    def error(*arguments, script="evaluate.py"):
        outcome = start(*arguments, script=script, tiny=False).wait()
        assert outcome.status == 1
        return outcome.error

    assert "enumerates order=random" in error("experiment=toy", "order=confidence")
    assert "at most" in error("experiment=toy", "data.length=9")
    assert "needs data.path=" in error("experiment=toy", "data=toy")
    assert "needs a checkpoint" in error("evaluation=exact_distribution")
    assert "needs a checkpoint" in error("evaluation=exact_distribution", "data=sudoku_4x4")
    assert "needs a checkpoint" in error("sampler.steps=3", script="sweep.py")
    assert train("run_dir=text").status == 0
    assert "needs a distribution" in error("ckpt=text", "evaluation=exact_distribution")
    assert "another tokenizer" in error("ckpt=text", "experiment=toy")


def test_paper_figures(start, tmp_path):
    scores = "benchmark,gen_length,alpha,beta,mask_schedule,steps,score,std\nMBPP,256,0.5,0.5,linear,8,0.2,0.2\n"
    (tmp_path / "scores.csv").write_text(scores)
    arguments = ("evaluation=paper_figures", "evaluation.paper_figures.points=3", "run_dir=out")
    results_csv = "evaluation.paper_figures.results=scores.csv"
    outcome = start(*arguments, results_csv, script="evaluate.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    assert "optimal for γ" in outcome.stdout
    assert len(list((tmp_path / "out").glob("figure*.png"))) == 4
    assert results(tmp_path / "out")["energy"]["n"] == "1"
