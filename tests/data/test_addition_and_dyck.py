"""Sums and running sums with one right answer, and words of brackets with many."""

import itertools
import random
from collections import Counter

import pytest
from scipy import stats

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.addition import Addition
from mdm_lightning.data.tasks.dyck import Dyck, balanced, random_word, words
from mdm_lightning.data.tasks.running_sum import RunningSum
from mdm_lightning.errors import UserError

CORRECT, WRONG, MALFORMED = Verdict(True, True), Verdict(True, False), Verdict(False, False)


@pytest.mark.parametrize(
    "task",
    [
        Addition(digits=3, train=300, validation=50),
        Dyck(train=300, validation=50),
        RunningSum(digits=5, train=300, validation=50),
    ],
)
def test_examples_are_correct_and_no_problem_is_in_both_splits(task, tmp_path):
    data = task.prepare(None, tmp_path)
    seen = []
    for split in (data.train, data.validation):
        rows = split.__getitems__(range(len(split)))
        assert all(task.check(row) == CORRECT for row in rows["tokens"])
        assert (rows["maskable"].sum(1) == task.response_length).all()
        seen.append({tuple(row) for row in rows["tokens"].tolist()})
    assert not seen[0] & seen[1]


def test_sums_are_judged():
    task = Addition(digits=2, train=1, validation=1)
    assert task.judge("07+95=", "102") == CORRECT
    for response, verdict in (
        ("103", WRONG),
        ("12", MALFORMED),
        ("1░2", MALFORMED),
        ("+02", MALFORMED),
        ("", MALFORMED),
    ):
        assert task.judge("07+95=", response) == verdict
    assert task.judge("07+05=", "012") == CORRECT


def test_running_sums_are_judged():
    task = RunningSum(digits=4, train=1, validation=1)
    for response, verdict in (("3005", CORRECT), ("3006", WRONG), ("300", MALFORMED), ("3░05", MALFORMED)):
        assert task.judge("3705=", response) == verdict


def every_word(kinds: int, length: int) -> set[str]:
    """By trying all."""
    alphabet = "([{<"[:kinds] + ")]}>"[:kinds]
    return {"".join(letters) for letters in itertools.product(alphabet, repeat=length) if balanced("".join(letters))}


@pytest.mark.parametrize(("kinds", "length"), [(1, 8), (2, 6), (3, 4)])
def test_words_are_counted_and_drawn_uniformly(kinds, length):
    """A chi-squared test at level 1e-4."""
    known = every_word(kinds, length)
    assert words(kinds, 0, length) == len(known)
    rng = random.Random(0)
    drawn = Counter(random_word(kinds, length, rng) for _ in range(100 * len(known)))
    assert set(drawn) <= known
    assert stats.chisquare([drawn[word] for word in known]).pvalue > 1e-4


def test_any_completion_that_balances_is_right():
    task = Dyck(length=6, given=2, train=1, validation=1)
    for response in ("])()", "]()]"):
        assert task.judge("([=", response) == (CORRECT if response == "])()" else WRONG)
    assert task.judge("([=", "])[]") == CORRECT
    assert task.judge("([=", "])[") == MALFORMED
    assert task.judge("([=", "])[░") == MALFORMED
    assert task.judge("([=", "])=]") == MALFORMED
    for word in ("(", ")", "(]", "([)]", ")("):
        assert not balanced(word)


def test_bad_settings():
    for bad in (
        lambda: Addition(digits=0),
        lambda: Addition(digits=51),
        lambda: RunningSum(digits=3),
        lambda: Dyck(kinds=5),
        lambda: Dyck(length=7),
        lambda: Dyck(given=20),
        lambda: Dyck(length=0, given=0),
    ):
        with pytest.raises(UserError, match=r"data\.\w+=.* should be"):
            bad()
