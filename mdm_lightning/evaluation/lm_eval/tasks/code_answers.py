"""Answers that are programs: what of a response is code, the program that tests it, and how many pass."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from mdm_lightning.evaluation.sandbox import runner as programs
from mdm_lightning.evaluation.sandbox.runner import Outcome, run_programs

Doc = dict[str, Any]
Responses = Sequence[Sequence[str]]
"""To each of the documents, as often as the task repeats it."""

_FENCE = re.compile(r"```(\w*)[ \t]*\n?")


def humaneval(responses: Responses, docs: Sequence[Doc]) -> list[list[Outcome]]:
    """Responses that go on where a prompt, the head of a function, ends."""
    return _outcomes([[_humaneval(doc, each) for each in some] for some, doc in zip(responses, docs, strict=True)])


def humaneval_instruct(responses: Responses, docs: Sequence[Doc]) -> list[list[Outcome]]:
    """The same within a fenced block that the prompt has opened."""
    return humaneval([[each.split("```")[0] for each in some] for some in responses], docs)


def mbpp(responses: Responses, docs: Sequence[Doc]) -> list[list[Outcome]]:
    """Responses that are code altogether."""
    return _outcomes([[_mbpp(doc, each) for each in some] for some, doc in zip(responses, docs, strict=True)])


def mbpp_instruct(responses: Responses, docs: Sequence[Doc]) -> list[list[Outcome]]:
    """Responses with code in a fenced block."""
    return mbpp([[fenced_code(each) for each in some] for some in responses], docs)


def fenced_code(response: str) -> str:
    """The code in a response to a prompt that has opened a fenced block.

    The first fence closes that block, unless it names a language or nothing comes before it: then the response has
    opened one of its own. (lm-eval takes the word behind the prompt's fence for the name of a language, so that the
    ``def`` of a response that starts with it is lost.)
    """
    fence = _FENCE.search(response)
    if fence is None:
        return response
    before, after = response[: fence.start()], response[fence.end() :]
    if fence[1] or not before.strip():
        return after.split("```")[0]
    return before


def pass_at_k(
    references: Sequence[str], predictions: Sequence[Sequence[Outcome]], k: Sequence[int]
) -> dict[str, float]:
    """``pass@k`` of one document for each k; without those for which there are too few responses."""
    (outcomes,) = predictions
    passed = sum(outcome.passed for outcome in outcomes)
    return {f"pass@{each}": programs.pass_at_k(len(outcomes), passed, each) for each in k if each <= len(outcomes)}


def pass_at_1(references: Sequence[str], predictions: Sequence[Sequence[Outcome]]) -> float:
    """``pass@1`` of one document."""
    return pass_at_k(references, predictions, [1])["pass@1"]


def _humaneval(doc: Doc, completion: str) -> str:
    return f"{doc['prompt']}{completion}\n{doc['test']}\ncheck({doc['entry_point']})"


def _mbpp(doc: Doc, code: str) -> str:
    return "\n".join([code, *doc["test_list"][:3]])


def _outcomes(written: list[list[str]]) -> list[list[Outcome]]:
    """Runs all programs of a task at once, so that they run in parallel."""
    outcomes = iter(run_programs([program for some in written for program in some]))
    return [list(islice(outcomes, len(some))) for some in written]
