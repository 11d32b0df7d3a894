"""Samples of a known distribution, measured; the two sides are treated alike; numbers do not depend on batches or
processes."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, TabulatedSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.description import describe, describe_sampler
from mdm_lightning.evaluation.generation.diversity import diversity
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.ngram import KneserNey
from mdm_lightning.evaluation.generation.python_parses import PythonParses
from mdm_lightning.evaluation.generation.quality import Generation, scorer_rows
from mdm_lightning.evaluation.generation.scorers import NgramScorer, NoScorer, Scores
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, EntropyBounded, LargestRemainder
from mdm_lightning.sampling.eos import EosLast, EosNever
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.order import Confidence, Random
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from tests.forkserver import run_side_by_side

from .corpora import ONE_AT_A_TIME, by_metric, text_subject

TRAIN = ["the cat sat on the mat. ", "a dog and a cat and a d", "nothing else is in here."]
TRAIN = [text.ljust(24, "!") for text in TRAIN]
NEW = ["qqqqqqqqqqqqqqqqqqqqqqqq", "abcdefghijklmnopqrstuvwx"]
TIMED = {"tokens_per_second"}


def rows_of(subject: Subject, **options) -> list[Row]:
    return list(Generation(ONE_AT_A_TIME, NgramScorer(order=3), **{"sequences": 10, **options})(subject))


@pytest.fixture
def subject() -> Subject:
    return text_subject(TRAIN, NEW, distribution=[TRAIN[0], NEW[1]])


def test_samples_are_measured_as_what_they_are(subject):
    """The denoiser's distribution is two texts; one of them is in the training data."""
    rows = by_metric(rows_of(subject, sequences=40), "generated")
    tokens = generate(subject, ONE_AT_A_TIME, 40, 64).tokens
    texts = [subject.tokenizer.decode(row) for row in tokens]
    assert set(texts) == {TRAIN[0], NEW[1]}
    known = texts.count(TRAIN[0]) / 40
    assert rows["duplicates"].value == pytest.approx(known)
    assert rows["distinct_1"].value == pytest.approx(known * len(set(TRAIN[0])) / 24 + (1 - known))
    assert rows["forward_passes"].value == 24
    assert rows["tokens_computed"].value == 24 * 24
    model = KneserNey.fit(subject.data.train.stream.astype(np.int64), subject.tokenizer.vocab_size, 3)
    assert rows["scorer_nats_per_token"].value == pytest.approx(model.nats(tokens.numpy()).mean())
    for name, values in diversity(tokens.numpy()).items():
        assert rows[name].value == pytest.approx(values.mean())


def test_held_out_text_is_measured_alike(subject):
    rows = by_metric(rows_of(subject), "validation")
    generated = by_metric(rows_of(subject), "generated")
    assert set(generated) - set(rows) == {"forward_passes", "tokens_computed", "tokens_per_second"}
    assert rows["duplicates"].value == 0
    assert rows["duplicates"].n == 2
    tokens = subject.data.validation.__getitems__([0, 1])["tokens"].numpy()
    model = KneserNey.fit(subject.data.train.stream.astype(np.int64), subject.tokenizer.vocab_size, 3)
    assert rows["scorer_nats_per_token"].value == pytest.approx(model.nats(tokens).mean())
    for name, values in diversity(tokens).items():
        assert rows[name].value == pytest.approx(values.mean())
    assert not by_metric(rows_of(subject, reference=False), "validation")


def test_rows_say_how_sure_they_are(subject):
    for row in rows_of(subject, sequences=30):
        assert math.isfinite(row.value)
        if row.scores is not None:
            assert len(row.scores) == row.n
            assert np.mean(row.scores) == pytest.approx(row.value)
            assert row.stderr == pytest.approx(np.std(row.scores, ddof=1) / row.n**0.5, abs=1e-15)


def test_perplexity_is_that_of_the_average(subject):
    rows = by_metric(rows_of(subject), "generated")
    nats, perplexity = rows["scorer_nats_per_token"], rows["scorer_perplexity"]
    assert perplexity.value == pytest.approx(math.exp(nats.value))
    assert perplexity.stderr == pytest.approx(perplexity.value * nats.stderr)
    assert nats.better == perplexity.better == "lower"
    assert nats.settings["scorer"] == NgramScorer(order=3).protocol


def test_the_average_over_texts_of_unequal_length():
    rng = np.random.default_rng(0)
    counted = rng.integers(1, 100, size=400)
    nats = counted * rng.gamma(4, size=400)
    row, _ = scorer_rows(Scores(nats, counted), {})
    assert row.value == pytest.approx(nats.sum() / counted.sum(), rel=1e-12)
    assert np.mean(row.scores) == pytest.approx(row.value, rel=1e-12)
    drawn = rng.integers(400, size=(4000, 400))
    bootstrap = (nats[drawn].sum(1) / counted[drawn].sum(1)).std()
    assert row.stderr == pytest.approx(bootstrap, rel=0.1)
    equal, _ = scorer_rows(Scores(nats, np.full(400, 50)), {})
    np.testing.assert_allclose(equal.scores, nats / 50)


def test_texts_without_tokens_to_score():
    """A text of one token counts for nothing, and all of them together for no row."""
    row, _ = scorer_rows(Scores(np.array([0.0, 6.0]), np.array([0, 3])), {})
    assert row.value == pytest.approx(2)
    subject = text_subject(TRAIN, NEW)
    rows = Generation(ONE_AT_A_TIME, NoScorer(), sequences=2)(subject)
    assert not [row for row in rows if "scorer" in row.metric]


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("sequences", [1, 3])
def test_tiny_sequences(length, sequences):
    cut = [text[:length] for text in TRAIN]
    subject = text_subject(cut, cut)
    rows = by_metric(rows_of(subject, sequences=sequences), "generated")
    assert all(math.isfinite(row.value) for row in rows.values())
    assert all(row.stderr is None or math.isfinite(row.stderr) for row in rows.values())
    assert rows["duplicates"].value == 1
    assert ("distinct_3" in rows) == (length >= 3)


def test_texts_are_shown(subject):
    rows_of(subject, show=3)
    assert list(subject.outputs.texts) == ["generation/0", "generation/1", "generation/2"]
    assert set(subject.outputs.texts.values()) <= {TRAIN[0], NEW[1]}


def test_only_for_text(subject):
    for evaluation in (Generation(ONE_AT_A_TIME, NgramScorer()), PythonParses(ONE_AT_A_TIME)):
        with pytest.raises(NotApplicable, match="evaluation=task"):
            next(iter(evaluation(replace(subject, prompted=True))))


@pytest.mark.parametrize("options", [{"sequences": 0}, {"batch_size": 0}, {"show": -1}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="must be at least"):
        Generation(ONE_AT_A_TIME, NoScorer(), **options)


def test_parsing_counts_samples():
    """Of the three texts one does not parse, whole lines are what counts, and one has no code."""
    good, bad, empty = "x\nif a:\n    b\nq(", "x\nif a:\nb\n    q(", "#\n# comment\n#\n# "
    subject = text_subject([good], [good, bad, empty, good], distribution=[good, bad])
    generated, held_out = PythonParses(ONE_AT_A_TIME, sequences=40)(subject)
    tokens = generate(subject, ONE_AT_A_TIME, 40, 64).tokens
    expected = [subject.tokenizer.decode(row) == good for row in tokens]
    assert 0 < sum(expected) < 40
    assert generated.scores == expected
    assert held_out.scores == [1, 0, 0, 1]
    assert held_out.value == 0.5
    assert held_out.settings["text"] == "validation"


def test_given_positions_are_kept(subject):
    begin = torch.tensor(subject.tokenizer.encode(TRAIN[0][:1]))

    def canvas_of(unit: range) -> torch.Tensor:
        canvas = torch.full((len(unit), 24), subject.denoiser.mask_id)
        canvas[:, :1] = begin
        return canvas

    generated = generate(subject, ONE_AT_A_TIME, 20, 8, canvas_of)
    assert {subject.tokenizer.decode(row) for row in generated.tokens} == {TRAIN[0]}
    assert (generated.revealed_at[:, 0] == -1).all()
    assert generated.sequence_nfe.tolist() == [23] * 20
    assert generated.nfe == 3 * 23


def untimed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.metric not in TIMED]


def test_numbers_do_not_depend_on_batches(subject):
    alone = untimed(rows_of(subject, batch_size=1))
    for batch_size in (3, 64):
        for row, expected in zip(untimed(rows_of(subject, batch_size=batch_size)), alone, strict=True):
            assert row.metric == expected.metric
            assert row.value == pytest.approx(expected.value, rel=1e-12)


def evaluate(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    toy = text_subject(TRAIN, NEW, distribution=[TRAIN[0], NEW[1]])
    rows = rows_of(replace(toy, processes=Processes(rank, size)), batch_size=3)
    torch.save([tuple(row) for row in untimed(rows)], f"{folder}/{size}-{rank}.pt")


@pytest.mark.ddp
def test_two_processes_give_the_numbers_of_one(tmp_path):
    evaluate(0, 1, str(tmp_path))
    run_side_by_side(evaluate, [(rank, 2, str(tmp_path)) for rank in range(2)])
    alone, first, second = (torch.load(tmp_path / name, weights_only=False) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert alone == first == second


def test_descriptions():
    assert describe(BetaSchedule(0.9, 0.3)) == "Beta(0.9, 0.3)"
    assert describe(LinearSchedule()) == "Linear"
    assert describe(TabulatedSchedule([0, 0.25, 1])) == "Tabulated([0, 0.25, 1])"
    assert describe(EntropyBounded(0.0)) == "EntropyBounded(0)"
    assert describe(Confidence()) == "Confidence"
    assert describe(Confidence(4.5)) == "Confidence(4.5)"
    assert describe_sampler(Sampler(LinearSchedule(), Binomial(), Random(), steps=8)) == {
        "schedule": "Linear",
        "count": "Binomial",
        "order": "Random",
        "steps": 8,
    }


def test_different_samplers_are_described_differently():
    plain = Sampler(BetaSchedule(0.9, 0.3), LargestRemainder(), Confidence(), steps=8)
    others = [
        replace(plain, steps=9),
        replace(plain, steps=None),
        replace(plain, schedule=BetaSchedule(0.3, 0.9)),
        replace(plain, count=Binomial()),
        replace(plain, order=Confidence(1.0)),
        replace(plain, count=RemaskCapped(0.1), order=Random()),
        replace(plain, tokens=TokenSampler(temperature=0)),
        replace(plain, tokens=TokenSampler(top_k=5)),
        replace(plain, tokens=TokenSampler(top_p=0.5)),
        replace(plain, tokens=TokenSampler(banned=[3])),
        replace(plain, blocks=Blocks(4)),
        replace(plain, guidance=Guidance(1.0)),
        replace(plain, tempered_evidence=True),
        replace(plain, eos=EosNever()),
        replace(plain, eos=EosNever(turns=True)),
        replace(plain, eos=EosLast()),
    ]
    described = [tuple(describe_sampler(sampler).items()) for sampler in [plain, *others]]
    assert len(set(described)) == len(described)
    assert dict(described[2])["steps"] == "one per position"
    assert describe_sampler(plain, steps=9) == describe_sampler(others[0])


@dataclass(frozen=True)
class BrokenScorer:
    protocol = "a broken scorer"

    def prepare(self, subject: Subject):
        def score(tokens, texts) -> Scores:
            nats = np.array([math.nan if text == NEW[0] else 1.0 for text in texts])
            return Scores(nats, np.ones(len(tokens), dtype=np.int64))

        return score


def test_a_scorer_without_a_finite_score_is_named(subject):
    with pytest.raises(UserError, match=r"a broken scorer.* no finite score for text 0"):
        list(Generation(ONE_AT_A_TIME, BrokenScorer(), sequences=10)(subject))
