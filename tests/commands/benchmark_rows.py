"""Rows in the formats of the benchmarks' own data, for every task that a preset evaluates."""

import json
from functools import cache
from pathlib import Path

from lm_eval.tasks import TaskManager

from mdm_lightning.evaluation.lm_eval.catalogue import OWN

PROBLEM = {"problem": "What is $1 + 1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"}
FUNCTION = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
    "entry_point": "one",
}
ROWS = {
    "gsm8k": {"question": "what is 1 plus 1?", "answer": "1 and 1 are 2.\n#### 2"},
    "bbh": {"input": "not True is", "target": "False"},
    "hendrycks_math": PROBLEM,
    "minerva_math": PROBLEM,
    "humaneval": FUNCTION,
    "humaneval_instruct": FUNCTION,
    "mbpp": {
        "task_id": 11,
        "text": "Write a function that returns one.",
        "code": "def one():\n    return 1",
        "test_list": ["assert one() == 1", "assert one() > 0", "assert one() < 2"],
    },
    "gpqa_diamond_generative_n_shot": {
        "Question": "What is 1 plus 1?",
        "Correct Answer": "2",
        **{f"Incorrect Answer {number}": str(number + 2) for number in (1, 2, 3)},
    },
}
METRIC = {
    "gsm8k": "exact_match/strict-match",
    "bbh": "exact_match",
    "hendrycks_math": "math_verify",
    "minerva_math": "math_verify",
    "humaneval": "pass@1",
    "humaneval_instruct": "pass@1",
    "mbpp": "pass_at_1",
    "gpqa_diamond_generative_n_shot": "exact_match/strict-match",
}
"""The first of each task, by which sweeps judge."""

PROGRAMS = {"humaneval", "humaneval_instruct", "mbpp"}
"""Tasks that run programs, which has to be confirmed."""


@cache
def every_task() -> TaskManager:
    """The index of lm-eval's tasks and ours, which takes seconds to make."""
    return TaskManager(include_path=[OWN])


def tasks_of(name: str) -> list[str]:
    """The tasks in a group, or the one of that name."""
    settings = every_task().task_index[name].cfg
    assert settings is not None
    return settings["task"] if "group" in settings else [name]


def write_rows(name: str, folder: Path) -> Path:
    """Eight rows for each split of each task, as ``evaluation.files`` takes them."""
    members = tasks_of(name)
    lines = "".join(json.dumps(ROWS[name] | {"number": number}) + "\n" for number in range(8))
    for task in members:
        place = folder / "data" / (task if len(members) > 1 else "")
        place.mkdir(parents=True, exist_ok=True)
        for split in ("test", "train"):
            (place / f"{split}.jsonl").write_text(lines)
    return folder / "data"
