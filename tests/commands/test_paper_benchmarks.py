"""The paper's benchmarks, whole, on a tiny random LLaDA and local files: from prompts to programs and scores."""

from dataclasses import replace
from pathlib import Path

import pytest

from mdm_lightning.evaluation.lm_eval.catalogue import OWN
from tests.commands.benchmark_rows import METRIC, PROGRAMS, every_task, tasks_of, write_rows
from tests.commands.conftest import Measuring
from tests.commands.test_configs import PAPERS
from tests.commands.test_sweep import cells
from tests.denoiser.published import llada, write_with_tokenizer

TASK = {"paper_math": "hendrycks_math", "paper_minerva": "minerva_math"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = llada()
    longer = replace(tiny, config=tiny.config | {"max_sequence_length": 4096})
    return write_with_tokenizer(longer, tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PAPERS)
def test_from_prompt_to_score(sweep: Measuring, model: Path, preset: str, tmp_path: Path):
    """Two instances in two cells; random weights solve nothing, and every answer was judged."""
    name = TASK.get(preset, preset.removeprefix("paper_"))
    confirm = ["evaluation.allow_code_execution=true"] if name in PROGRAMS else []
    outcome = sweep(
        f"ckpt={model}",
        f"experiment={preset}",
        f"+evaluation.files.{name}={write_rows(name, tmp_path)}",
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
        assert first.metric == METRIC[name]
        assert first.scores is not None
        assert [*first.scores] == [0.0, 0.0]
        assert first.settings["task"] == name
        passes = next(row for row in cell.rows if row.metric == "forward_passes")
        assert passes.value == cell.steps
        length = 128 if preset in ("paper_gsm8k", "paper_bbh") else 256
        assert first.settings["generation_length"] == length


def test_our_tasks_come_before_lm_evals():
    """Those that run programs or compare mathematics are ours, under the names that everybody uses."""
    for name in ("humaneval", "mbpp", "minerva_math", "hendrycks_math"):
        for task in tasks_of(name):
            path = every_task().task_index[task].yaml_path
            assert path is not None
            assert path.is_relative_to(OWN)
