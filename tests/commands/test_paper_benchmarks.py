"""The paper's benchmarks, whole, on a tiny random LLaDA and local files: from prompts to programs and scores."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from mdm_lightning.evaluation.lm_eval.catalogue import OWN, Catalogue
from tests.commands.conftest import Measuring
from tests.commands.test_sweep import cells
from tests.denoiser.published import llada, write_with_tokenizer

PROBLEM = {"problem": "What is $1 + 1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"}
ROWS = {
    "paper_gsm8k": {"question": "what is 1 plus 1?", "answer": "1 and 1 are 2.\n#### 2"},
    "paper_bbh": {"input": "not True is", "target": "False"},
    "paper_math": PROBLEM,
    "paper_minerva": PROBLEM,
    "paper_humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def one():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
    },
    "paper_mbpp": {
        "task_id": 11,
        "text": "Write a function that returns one.",
        "code": "def one():\n    return 1",
        "test_list": ["assert one() == 1", "assert one() > 0", "assert one() < 2"],
    },
}
TASK = {"paper_math": "hendrycks_math", "paper_minerva": "minerva_math"}
METRIC = {
    "paper_gsm8k": "exact_match/strict-match",
    "paper_bbh": "exact_match",
    "paper_math": "math_verify",
    "paper_minerva": "math_verify",
    "paper_humaneval": "pass@1",
    "paper_mbpp": "pass_at_1",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = llada()
    longer = replace(tiny, config=tiny.config | {"max_sequence_length": 4096})
    return write_with_tokenizer(longer, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    """With lm-eval's tasks and ours in its index."""
    return Catalogue()._manager(["gsm8k"])


def tasks_of(name: str, manager: TaskManager) -> list[str]:
    """The tasks in a group, or the one of that name."""
    settings = manager.task_index[name].cfg
    assert settings is not None
    return settings["task"] if "group" in settings else [name]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ROWS)
def test_from_prompt_to_score(sweep: Measuring, model: Path, manager: TaskManager, preset: str, tmp_path: Path):
    """Two instances in two cells; random weights solve nothing, and every answer was judged."""
    name = TASK.get(preset, preset.removeprefix("paper_"))
    rows = [ROWS[preset] | {"number": number} for number in range(8)]
    members = tasks_of(name, manager)
    for task in members:
        folder = tmp_path / "data" / (task if len(members) > 1 else "")
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("test", "train"):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    confirm = ["evaluation.allow_code_execution=true"] if preset in ("paper_humaneval", "paper_mbpp") else []
    outcome = sweep(
        f"ckpt={model}",
        f"experiment={preset}",
        f"+evaluation.files.{name}={tmp_path / 'data'}",
        *confirm,
        "schedule.alpha=0.5",
        "schedule.beta=0.5",
        "sampler.steps=2,4",
        "sweep.baselines=[]",
        "sweep.limit=2",
        "sweep.refine=0",
        f"sweep.dir={tmp_path / 'sweep'}",
    )
    assert outcome.status == 0, outcome.stderr
    found = list(cells(tmp_path / "sweep").values())
    assert [cell.steps for cell in found] == [2, 4]
    for cell in found:
        first = cell.rows[0]
        assert first.metric == METRIC[preset]
        assert first.scores is not None
        assert [*first.scores] == [0.0, 0.0]
        assert first.settings["task"] == name
        passes = next(row for row in cell.rows if row.metric == "forward_passes")
        assert passes.value == cell.steps
        length = 128 if preset in ("paper_gsm8k", "paper_bbh") else 256
        assert first.settings["generation_length"] == length


def test_our_tasks_come_before_lm_evals(manager: TaskManager):
    """Those that run programs or compare mathematics are ours, under the names that everybody uses."""
    for name in ("humaneval", "mbpp", "minerva_math", "hendrycks_math"):
        for task in tasks_of(name, manager):
            path = manager.task_index[task].yaml_path
            assert path is not None
            assert path.is_relative_to(OWN)
