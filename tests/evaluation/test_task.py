"""Accuracy on problems whose solutions a rule checks, with denoisers whose accuracy is known."""

import dataclasses
import math

import pytest
import torch

from mdm_lightning.data.source import Verdict
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.generation.task import TaskAccuracy, prompts

from .corpora import ONE_AT_A_TIME, Rows, text_subject


class Doubling:
    """After a letter comes the same letter twice; digits are no response at all."""

    prompt_length = 1

    def __init__(self, spell: dict[int, str]) -> None:
        self.spell = spell

    def check(self, tokens):
        asked, *answer = (self.spell[token] for token in tokens.tolist())
        return Verdict(valid="".join(answer).isalpha(), correct=answer == [asked, asked])


class Problems(Rows):
    """The first position is given."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"] = (torch.arange(3) > 0).expand(len(indices), 3)
        return batch


def task_subject(distribution: dict[str, float], problems: int = 600) -> Subject:
    """Problems a.. and b.. in turn; the denoiser knows the distribution of whole sequences."""
    texts = ["aaa", "bbb"] * (problems // 2)
    subject = text_subject(texts, texts, distribution=list(distribution))
    tokenizer = subject.tokenizer
    denoiser = ExactDenoiser(
        tokenizer.encode_batch(list(distribution)), list(distribution.values()), tokenizer.vocab_size
    )
    data = dataclasses.replace(subject.data, validation=Problems(subject.data.validation.stream.reshape(-1, 3)))
    spell = {tokenizer.encode(c)[0]: c for c in "".join(distribution)}
    return dataclasses.replace(subject, denoiser=denoiser, prepare=lambda: data, task=Doubling(spell), prompted=True)


def measure(subject: Subject, **options: int) -> dict[str, Row]:
    return {row.metric: row for row in TaskAccuracy(ONE_AT_A_TIME, **options)(subject)}


def test_a_model_that_knows_solves_everything():
    rows = measure(task_subject({"aaa": 1.0, "bbb": 1.0}, 50))
    assert rows["accuracy"].value == rows["valid"].value == 1
    assert rows["accuracy"].stderr == 0
    assert rows["accuracy"].n == 50
    assert rows["forward_passes"].value == 2  # one for each position of the response


def test_a_model_that_guesses_solves_as_many_as_it_should():
    """Half of the a-problems, a quarter of the b-problems, of which half are not even well-formed: within five standard
    errors of the binomial distribution, by chance once in 1e6."""
    rows = measure(task_subject({"aaa": 0.5, "aab": 0.5, "bbb": 0.25, "bab": 0.25, "b11": 0.5}), batch_size=100)
    n = 600
    for metric, parts in (("accuracy", (0.5, 0.25)), ("valid", (1.0, 0.5))):
        row = rows[metric]
        variance = sum(p * (1 - p) for p in parts) / 2
        assert abs(row.value - sum(parts) / 2) < 5 * math.sqrt(variance / n)
        assert row.value == pytest.approx(sum(row.scores or []) / n)
        assert row.stderr == pytest.approx(math.sqrt(row.value * (1 - row.value) / n))
        assert row.better == "higher"
    scores = rows["accuracy"].scores or []
    assert abs(sum(scores[::2]) / 300 - 0.5) < 5 * math.sqrt(0.25 / 300)  # scores are in the order of the problems


def test_a_problem_has_its_own_noise():
    """Neither the batch size nor the window that it is seen in change what becomes of it."""
    subject = task_subject({"aaa": 0.5, "aab": 0.5, "bbb": 0.5, "bab": 0.5}, 40)
    whole = measure(subject)["accuracy"].scores or []
    assert 0 < sum(whole) < 40
    assert measure(subject, batch_size=7)["accuracy"].scores == whole
    subject.first = 10
    assert measure(subject, sequences=20)["accuracy"].scores == whole[10:30]


def test_prompts_are_kept():
    subject = task_subject({"aaa": 1.0, "bbb": 1.0}, 10)
    canvas = prompts(subject, range(3, 6))
    assert canvas[:, 0].tolist() == subject.tokenizer.encode("bab")
    assert (canvas[:, 1:] == subject.tokenizer.mask_id).all()


def test_text_is_no_task():
    with pytest.raises(NotApplicable, match="evaluation=task needs a checkpoint of a task"):
        measure(text_subject(["ab"], ["ab"]))


@pytest.mark.parametrize("name", ["sequences", "batch_size"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"TaskAccuracy: {name} must be at least 1"):
        TaskAccuracy(ONE_AT_A_TIME, **{name: 0})
