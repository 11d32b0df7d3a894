"""Answers found in texts, and compared in a process that cannot hold up the others."""

import threading

import pytest

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.lm_eval.tasks import math_verifier
from mdm_lightning.evaluation.lm_eval.tasks.math_answers import boxed, normalised
from mdm_lightning.evaluation.lm_eval.tasks.math_verifier import MathVerifier, equal

pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("$\\boxed{5}$", "5"),
        ("$\\boxed{5}$, no, $\\boxed{\\frac{1}{\\sqrt{2}}}$ it is {}", "\\frac{1}{\\sqrt{2}}"),
        ("$\\boxed 7$ apples", "7"),
        ("\\fbox{red}", "red"),
        ("$\\boxed{\\{1, \\left\\{2\\right.\\}}$", "\\{1, \\left\\{2\\right.\\}"),
        ("$\\boxed {5}$", "5"),
        ("$\\boxed{1}$ and $\\boxed{2", "1"),
        ("$5$", None),
        ("", None),
    ],
)
def test_boxes(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\\left( 3, 4 \\right)", "(3,4)", True),
        ("\\dfrac{1}{2}", "$\\tfrac{1}{2}$.", True),
        ("1\\,000\\!", "1000", True),
        ("x\\quad y", "xy", True),
        ("\\$5", "5", True),
        ("\\leftarrow", "arrow", False),
        ("0.5", "5", False),
        ("1.5", "15", False),
    ],
)
def test_what_does_not_show_is_left_out(one, other, same):
    assert (normalised(one) == normalised(other)) == same
    for text in (one, other):
        assert normalised(normalised(text)) == normalised(text)


def test_equal_on_any_thread():
    verdicts: list[bool] = []
    threads = [threading.Thread(target=lambda: verdicts.append(equal("$\\frac12$", "$0.5$"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4
    assert not equal("$\\frac12$", "$0.25$")
    assert not equal("$1$", "\0\ud800 \\boxed{\\frac{}{0}}\n")


def test_comparisons_take_no_longer_than_they_may():
    """The process that takes too long is ended; another one goes on."""
    verifier = MathVerifier(seconds=1)
    try:
        assert verifier.equal("$5$", "$5$")
        first = verifier._process
        assert not verifier.equal("$5$", "$\\sum_{n=1}^{10^9} n^{n}$")
        assert first is not None
        assert first.poll() is not None
        assert verifier.equal("$5$", "$5$")
    finally:
        verifier.close()


def test_a_lost_process_is_replaced():
    verifier = MathVerifier()
    try:
        assert verifier.equal("$5$", "$5$")
        assert verifier._process is not None
        verifier._process.kill()
        assert not verifier.equal("$5$", "$5$")
        assert verifier.equal("$5$", "$5$")
    finally:
        verifier.close()


def test_what_does_not_start_is_said(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('Unsupported ANTLR version')")
    monkeypatch.setattr(math_verifier, "_CHILD", broken)
    with pytest.raises(UserError, match=r"Unsupported ANTLR version.*mdm-lightning\[lm-eval\]"):
        MathVerifier().equal("$5$", "$5$")
