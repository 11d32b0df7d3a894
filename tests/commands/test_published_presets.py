"""LLaDA's published evaluations, each preset whole, on a tiny random model in its layout and rows in the formats of the
benchmarks: it renders prompts, generates, runs programs and scores, with fewer steps."""

from dataclasses import replace
from pathlib import Path

import pytest

from mdm_lightning.checkpoint.published import open_published
from mdm_lightning.commands.evaluate import build_evaluations
from mdm_lightning.commands.subject import load_subject
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.lm_eval.catalogue import Catalogue
from mdm_lightning.evaluation.processes import Processes
from tests.commands.benchmark_rows import METRIC, PROGRAMS, every_task, write_rows
from tests.commands.test_configs import LLADA, configure
from tests.denoiser.published import HIDDEN, llada, random
from tests.tokenizer_families import phi3

FEWSHOT = {"gsm8k": 5, "bbh": 3, "minerva_math": 4, "humaneval": 0, "mbpp": 3}
"""Examples in lm-eval's own prompts, which the presets of LLaDA-8B-Base leave as they are."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """With a chat template, and long enough for every prompt."""
    folder, tiny, tokenizer = tmp_path_factory.mktemp("model"), llada(), phi3()
    rows = tokenizer.vocab_size + 1
    outside = ("model.transformer.wte.weight", "model.transformer.ff_out.weight")
    weights = tiny.weights | random(dict.fromkeys(outside, (rows, HIDDEN)))
    sizes = {"embedding_size": rows, "vocab_size": rows, "mask_token_id": rows - 1, "max_sequence_length": 4096}
    replace(tiny, config=tiny.config | sizes, weights=weights).write(folder)
    tokenizer.save(folder)
    trainer = configure("trainer.accelerator=cpu", name="evaluate").trainer
    return load_subject(open_published(str(folder)), None, trainer, folder, 0, Processes())


@pytest.fixture(autouse=True)
def one_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation makes the index of lm-eval's tasks; here it is made once."""
    index = every_task()
    monkeypatch.setattr(Catalogue, "_manager", lambda catalogue, names: index)


@pytest.mark.parametrize("preset", LLADA)
def test_a_preset_runs(subject: Subject, preset: str, tmp_path: Path):
    """One instance. Random weights solve nothing, but the answer was judged, by the metric that is published, with a
    pass for every step and nothing else changed."""
    options = [f"experiment={preset}", "evaluation.limit=1"]
    (task,) = configure(*options, name="evaluate").evaluation.tasks
    length, block, _ = LLADA[preset]
    steps = 2 if block is None else length // block
    options += [f"sampler.steps={steps}", f"+evaluation.files.{task}='{write_rows(task, tmp_path)}'"]
    if task in PROGRAMS:
        options.append("evaluation.allow_code_execution=true")
    config = configure(*options, name="evaluate")
    (evaluation,) = build_evaluations(config.evaluation).values()
    rows = list(evaluation(subject))
    by_metric = {row.metric: row for row in rows if row.settings["task"] == task}
    judged = by_metric[METRIC[task]]
    assert rows[0].metric == METRIC[task]
    assert (judged.value, judged.n) == (0, 1)
    assert by_metric["forward_passes"].value == steps
    few = FEWSHOT[task] if preset.startswith("llada_base") else config.evaluation.num_fewshot
    assert (judged.settings["generation_length"], judged.settings["fewshot"]) == (length, few)
    assert judged.settings.get("chat") == (None if preset.startswith("llada_base") else "template")
