"""Models beside each other: differences are paired where the sequences are the same, and refused where nothing is."""

import dataclasses
import math

import numpy as np
import pytest

from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.masking import CountMasking
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.report.comparison.build import comparison_page, comparison_text, write_comparison
from mdm_lightning.report.comparison.comparison import Candidate, Comparison, compare_candidates, short_names
from mdm_lightning.report.comparison.curves import logged_curves
from mdm_lightning.report.comparison.tables import curves_figure, runs_table, settings_tables
from mdm_lightning.training.dashboards import TensorBoard
from mdm_lightning.training.loggers import CsvLog
from tests.evaluation.corpora import text_subject
from tests.report.test_sweep_report import Resources

TEXTS = ("abca", "abcc", "bcab", "ccaa", "cbab")
LIKELIHOOD = Likelihood(CountMasking(StratifiedTimes()), draws=4)


def subject(weights: tuple[float, ...], texts: tuple[str, ...] = TEXTS * 8) -> Subject:
    """Texts, and a denoiser that knows them with given weights."""
    one = text_subject(texts, texts)
    ids = one.tokenizer.encode_batch(list(TEXTS))
    return dataclasses.replace(one, denoiser=ExactDenoiser(ids, weights, one.tokenizer.vocab_size))


def compared(*subjects: Subject, text: str | None = None) -> Comparison:
    return compare_candidates([Candidate(f"m{i}", one, text) for i, one in enumerate(subjects)], LIKELIHOOD)


def test_differences_are_those_of_the_sequences():
    good, bad = subject((1, 1, 1, 1, 1)), subject((1, 9, 1, 2, 1))
    comparison = compared(good, bad)
    rows = [next(iter(LIKELIHOOD(one))) for one in (good, bad)]
    gaps = np.subtract(rows[1].scores, rows[0].scores)
    difference = comparison.difference(comparison.models[1])
    assert comparison.paired
    assert difference.value == pytest.approx(gaps.mean())
    assert difference.value == pytest.approx(rows[1].value - rows[0].value)
    assert difference.stderr == pytest.approx(gaps.std(ddof=1) / math.sqrt(len(gaps)))


def test_a_model_and_itself_cannot_be_told_apart():
    comparison = compared(subject((1, 2, 3, 4, 5)), subject((1, 2, 3, 4, 5)))
    assert comparison.difference(comparison.models[1]) == (0, 0)
    assert "m1 and m0 cannot be told apart" in comparison_text(comparison)


def test_the_better_model_is_named_and_all_are_compared_with_the_first():
    comparison = compared(subject((1, 90, 1, 2, 1)), subject((1, 1, 1, 1, 1)), subject((1, 90, 1, 2, 1)))
    text = comparison_text(comparison)
    assert "m1 is better than m0 by" in text
    assert "m2 and m0 cannot be told apart" in text
    assert "| m0 |" in text
    assert "reference" in text


def test_one_model_is_no_comparison():
    with pytest.raises(UserError, match="two models or more"):
        compared(subject((1, 1, 1, 1, 1)))


def test_other_sequences_are_compared_by_bits_per_byte_of_the_same_text_or_not_at_all():
    one, other = subject((1, 1, 1, 1, 1)), subject((1, 1, 1, 1, 1), TEXTS * 9)
    with pytest.raises(UserError, match=r"m0 and m1 cannot be compared: their data .* are not the same text"):
        compared(one, other)
    comparison = compared(one, other, text="the same")
    assert not comparison.paired
    errors = [model.row("bits_per_byte").stderr for model in comparison.models]  # pyright: ignore[reportOptionalMemberAccess]
    assert comparison.difference(comparison.models[1]).stderr == pytest.approx(math.hypot(*errors))
    data = dataclasses.replace(other.data, bytes_per_position=None)
    with pytest.raises(UserError, match="m1 has no bits per byte"):
        compared(one, dataclasses.replace(other, prepare=lambda: data), text="the same")


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    subjects = [subject((1, 1, 1, 1, 1)), subject((1, 2, 1, 1, 1))]
    candidates = [Candidate(name, one) for name, one in zip(("<i>a|b", "c"), subjects, strict=True)]
    hostile = compare_candidates(candidates, LIKELIHOOD)
    page = Resources()
    page.feed(comparison_page(hostile))
    assert not page.open
    assert not page.found
    assert "<i>" not in comparison_page(hostile)
    write_comparison(hostile, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.html", "comparison.md"]


@pytest.mark.parametrize("kind", [CsvLog, TensorBoard])
def test_curves_are_read_from_what_a_run_has_logged(tmp_path, kind):
    logger = kind(str(tmp_path), 0)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 1 / step}, step)
    logger.log_metrics({"val/loss": 0.5}, 2)
    logger.finalize("success")
    curves = logged_curves(tmp_path)
    assert curves["train/loss"] == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3})
    assert curves["val/loss"] == {2: 0.5}


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert logged_curves(tmp_path) == {}


def test_what_is_known_of_runs_is_shown():
    first, second = compared(subject((1, 1, 1, 1, 1)), subject((1, 2, 1, 1, 1))).models
    curves = {
        "train/loss": {1: 3.0, 2: 2.0},
        "val/loss": {1: 2.5, 2: 2.75},
        "throughput/tokens_per_second": {1: 9, 2: 11},
    }
    run = dataclasses.replace(
        first, step=2, steps=5, tokens=1000, curves=curves, settings={"model.depth": "2", "seed": "0"}
    )
    other = dataclasses.replace(second, step=5, steps=5, settings={"model.depth": "3", "seed": "0", "new": "1"})
    shown = [[item.text for item in row[1:]] for row in runs_table([run, other, second]).rows]
    assert shown[0] == ["2 of 5", "1,000", "0", "10", "2.0000", "2.5000"]
    assert shown[1][0] == "5"
    assert shown[2][0] == "—"
    (table,) = settings_tables([run, other, second])
    assert [[item.text for item in row] for row in table.rows] == [["model.depth", "2", "3"], ["new", "—", "1"]]
    assert settings_tables([run, run]) == []
    figure = curves_figure(Comparison([run, other], paired=True))
    assert figure is not None
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert curves_figure(Comparison([second, second], paired=True)) is None


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["outputs/train/a", "outputs/train/b"], ["a", "b"]),
        (["x/run", "y/run/", "z/other"], ["x/run", "y/run", "z/other"]),
        (["run", "x/run"], ["run", "x/run"]),
        (["same", "same"], ["same", "same"]),
    ],
)
def test_names_are_as_short_as_they_differ(paths, names):
    assert short_names(paths) == names
