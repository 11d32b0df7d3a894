"""Answers that are mathematics: where in a response they are, and whether they are right.

``math_verify`` is what they are judged by: equal as mathematics. ``exact_match`` asks for the same text but for spacing
and the like, which is a lower bound that depends on no library.
"""

import re
from typing import Any

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.lm_eval.tasks.math_verifier import equal, require_math_verify

Doc = dict[str, Any]

_FINAL = re.compile(r"Final Answer: The final answer is(.*?)\.? I hope it is correct\.")
_DOLLARS = re.compile(r"\$(.*)\$", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed (?!\s*\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # the first keeps what is escaped from counting
_SPACING = re.compile(r"\\\$|\\[!,;: ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\q?quad(?![a-zA-Z])|~|\$|\s")


def with_answers(dataset: Any) -> Any:
    """A data set of problems and worked solutions, with the ``answer`` of each.

    Raises:
        UserError: math-verify is missing, which is better known before anything is generated; or an answer is.
    """
    require_math_verify()
    return dataset.map(_with_answer)


def score_minerva(doc: Doc, responses: list[str]) -> dict[str, float]:
    """Scores of the first response: the answer is what it says to be final, or else what it has boxed last."""
    final = _FINAL.search(f"{responses[0].rstrip()} I hope it is correct.")
    return _score(doc, responses[0], final[1] if final else boxed(responses[0]))


def score_hendrycks(doc: Doc, responses: list[str]) -> dict[str, float]:
    """Scores of the first response: the answer is what it has boxed last, or else between dollars, or else all."""
    answer = boxed(responses[0])
    if answer is None:
        dollars = _DOLLARS.search(responses[0])
        answer = dollars[1] if dollars else responses[0]
    return _score(doc, responses[0], answer)


def boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, or ``\boxed x``, whose braces are closed; None where there is none."""
    for box in reversed(list(_BOX.finditer(text))):
        rest = text[box.end() :]
        if not rest.startswith("{"):
            return rest.split("$")[0]
        depth = 0
        for brace in _BRACE.finditer(rest):
            depth += (brace[0] == "{") - (brace[0] == "}")
            if depth == 0:
                return rest[1 : brace.start()]
    return None


def normalised(answer: str) -> str:
    """The text without what does not show, or shows differently only: spacing, dollars, sizes, the final stop."""
    answer = _SPACING.sub("", answer)
    answer = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", answer)
    return answer.removesuffix(".")


def _with_answer(doc: Doc) -> dict[str, str]:
    answer = boxed(doc["solution"])
    if answer is None:
        answer = doc.get("answer")
    if answer is None:
        raise UserError(f"the solution of the problem {doc['problem'][:60]!r} has no \\boxed{{answer}}")
    return {"answer": answer}


def _score(doc: Doc, response: str, answer: str | None) -> dict[str, float]:
    gold = doc["solution"] if boxed(doc["solution"]) is not None else f"$\\boxed{{{doc['answer']}}}$"
    same = answer is not None and normalised(answer) == normalised(doc["answer"])
    return {"math_verify": float(equal(gold, response)), "exact_match": float(same)}
