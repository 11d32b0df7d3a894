"""Generative frontiers: samplers are compared where their texts are equally diverse, and errors are what they claim."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdm_lightning.arguments import BadArgument
from mdm_lightning.evaluation.base import NotApplicable
from mdm_lightning.evaluation.generation.frontier import MATCHED, Frontier
from mdm_lightning.evaluation.generation.matched_entropy import Curve, compare, shared
from mdm_lightning.evaluation.generation.scorers import NgramScorer
from mdm_lightning.evaluation.processes import Processes
from tests.forkserver import run_side_by_side

from .corpora import ONE_AT_A_TIME, text_subject

TEXTS = ["the cat sat on the mat. ", "a dog and a cat and a d!", "aaaaaaaaaaaaaaaaaaaaaaaa", "nothing else is in here."]
UNEVEN = [*TEXTS, TEXTS[2], TEXTS[2]]
"""The lower the temperature, the more often nothing but a."""


def synthetic(
    temperatures: np.ndarray, texts: int, generator: np.random.Generator, *, shift: float = 0.0, better: float = 0.0
) -> Curve:
    """A sampler on the curve nats = entropy^2 - ``better``, whose entropy is its temperature plus ``shift``. A text's
    noise is the same at all temperatures but for a part of its own."""
    entropy = temperatures[:, None] + shift + 0.3 * generator.normal(size=texts)
    entropy = entropy + 0.1 * generator.normal(size=(len(temperatures), texts))
    mean = (temperatures + shift)[:, None]
    nats = mean**2 - better + 2 * mean * (entropy - mean) + 0.2 * generator.normal(size=entropy.shape)
    return Curve([str(t) for t in temperatures], entropy, nats)


def height(curve: Curve, entropy: float) -> float:
    """A second way: NumPy's interpolation."""
    order = np.argsort(curve.entropy.mean(1))
    return float(np.interp(entropy, curve.entropy.mean(1)[order], curve.nats.mean(1)[order]))


def test_shares_average_to_the_interpolated_height():
    curve = synthetic(np.array([1.0, 0.4, 0.7]), 50, np.random.default_rng(0))
    low, high = curve.reach
    for entropy in (*np.linspace(low, high, 20), *curve.entropy.mean(1)):
        at = curve.at(float(entropy))
        assert at is not None
        assert at.mean() == pytest.approx(height(curve, entropy), abs=1e-12)
    assert curve.at(low - 1e-9) is None
    assert curve.at(high + 1e-9) is None


def test_the_standard_error_is_that_of_interpolating_anew():
    """Against a bootstrap that interpolates each resample; 2,000 resamples know a spread to 1.6 %."""
    generator = np.random.default_rng(1)
    curve = synthetic(np.array([0.5, 0.8, 1.1]), 400, generator)
    at = curve.at(0.9)
    assert at is not None
    heights = []
    for _ in range(2_000):
        drawn = generator.integers(400, size=400)
        heights.append(height(Curve(curve.points, curve.entropy[:, drawn], curve.nats[:, drawn]), 0.9))
    assert at.std(ddof=1) / 20 == pytest.approx(np.std(heights), rel=0.08)


def test_equal_samplers_at_other_temperatures_are_equal():
    """One curve, reached at other temperatures: at equal temperature the nats differ, at equal entropy they do not.
    Of 200 comparisons with nothing to find, 19 or more are significant with probability below 1 %."""
    generator, found, naive = np.random.default_rng(2), 0, 0
    grid = np.linspace(0.4, 1.2, 9)
    for _ in range(200):
        first, second = (synthetic(grid, 60, generator, shift=shift) for shift in (0.0, 0.25))
        (matched,) = compare(first, second, [0.93])
        found += matched.p < 0.05
        naive += bool(abs(first.nats[4].mean() - second.nats[4].mean()) > 0.2)
    assert found < 19
    assert naive > 150


def test_a_better_sampler_is_found_better():
    generator = np.random.default_rng(3)
    grid = np.linspace(0.4, 1.2, 5)
    first, second = (synthetic(grid, 200, generator, shift=s, better=b) for s, b in ((0.0, 0.2), (0.1, 0.0)))
    found = compare(first, second, [0.2, *shared([first, second], 3), 2.0])
    assert len(found) == 3  # the others are beyond one of the two
    for matched in found:
        assert matched.low < matched.difference < matched.high < 0
        assert matched.p < 0.01
        assert matched.low < -0.2 < matched.high


def frontier(**options) -> Frontier:
    return Frontier(ONE_AT_A_TIME, NgramScorer(order=3), **{"sequences": 12, **options})


def test_rows_are_a_curve_and_its_height():
    subject = text_subject(TEXTS[:2], [TEXTS[0], TEXTS[3]], distribution=UNEVEN)
    rows = list(frontier(temperatures=[0.3, 1.0], entropy=1.0)(subject))
    curve = Curve.of_rows(rows)
    assert curve is not None
    assert curve.points == ["temperature 0.3", "temperature 1"]
    last = rows[-1]
    assert last.metric == MATCHED
    judging = [row.metric for row in rows if row.better is not None]
    assert judging == [MATCHED]  # likelihood alone would judge repetition best
    low, high = curve.reach
    assert low < high
    middle = list(frontier(temperatures=[0.3, 1.0], entropy=(low + high) / 2)(subject))[-1]
    assert middle.value == pytest.approx(height(curve, (low + high) / 2))
    assert np.mean(middle.scores or []) == pytest.approx(middle.value)


def test_an_entropy_that_is_not_reached_has_no_height():
    subject = text_subject(TEXTS[:2], [TEXTS[0], TEXTS[3]], distribution=UNEVEN)
    row = list(frontier(temperatures=[0.5, 1.0], entropy=20.0)(subject))[-1]
    assert math.isnan(row.value)
    assert row.scores is None
    shown = subject.outputs.texts["frontier"]  # pyright: ignore[reportAttributeAccessIssue]
    assert "does not reach an entropy of 20.000" in shown
    assert "Try higher" in shown


def test_held_out_text_is_the_default_place():
    subject = text_subject(TEXTS[:2], [TEXTS[0], TEXTS[3]], distribution=UNEVEN)
    rows = list(frontier(temperatures=[0.5, 1.0])(subject))
    held_out = next(r for r in rows if r.metric == "unigram_entropy" and r.settings["text"] == "validation")
    assert rows[-1].settings["entropy"] == held_out.value


def evaluate(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    subject = text_subject(TEXTS[:2], [TEXTS[0], TEXTS[3]], distribution=UNEVEN)
    subject = replace(subject, processes=Processes(rank, size))
    rows = frontier(temperatures=[0.3, 1.0], entropy=0.9, batch_size=5)(subject)
    torch.save([tuple(row) for row in rows if row.metric != "tokens_per_second"], f"{folder}/{size}-{rank}.pt")


@pytest.mark.ddp
def test_two_processes_give_the_numbers_of_one(tmp_path):
    evaluate(0, 1, str(tmp_path))
    run_side_by_side(evaluate, [(rank, 2, str(tmp_path)) for rank in range(2)])
    alone, *both = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert np.isfinite(alone[-1][1])
    for rows in both:
        assert rows == alone


def test_top_p_may_vary_instead():
    assert list(frontier(temperatures=[1.0], top_p=[0.8, 1.0]).samplers) == [
        "temperature 1, top-p 0.8",
        "temperature 1, top-p 1",
    ]
    assert len(frontier(temperatures=[0.5, 1.0], top_p=[0.9]).samplers) == 2


@pytest.mark.parametrize(
    "options",
    [{"temperatures": [1.0]}, {"temperatures": [0.5, 1, 2], "top_p": [0.5, 1.0]}, {"temperatures": [0.0, 1.0]},
     {"sequences": 1}, {"entropy": -1.0}],
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(BadArgument):
        frontier(**options)


def test_prompts_are_refused():
    subject = text_subject(TEXTS[:2], TEXTS[:1])
    subject.prompted = True
    with pytest.raises(NotApplicable, match="for text"):
        frontier().prepare(subject)
