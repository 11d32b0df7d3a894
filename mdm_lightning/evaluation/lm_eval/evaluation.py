"""Benchmarks of lm-eval: scores of every instance, so that schedules can be compared pair by pair."""

import json
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdm_lightning.arguments import check, check_numbers, finite
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject, batches
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.likelihood.conditional import ConditionalLikelihood
from mdm_lightning.evaluation.sandbox.runner import Outcome, ProgramRunner, allowing, cores
from mdm_lightning.files import to_json
from mdm_lightning.sampling.sampler import Sampler

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from mdm_lightning.evaluation.lm_eval.model import Tally

log = logging.getLogger(__name__)

FEWSHOT_SEED = 1234  # lm-eval's own, so that prompts have the same examples

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class LmEval:
    """Tasks of lm-eval (Gao et al., 2024), or of one's own in its format.

    With a ``limit``, instances are drawn at random from all of a task or group, the same for every sampler; the next
    ones for ``subject.first`` > 0.

    Args:
        sampler: how answers are generated.
        tasks: names of tasks and groups.
        limit: instances of each task or group; None for all.
        num_fewshot: examples in each prompt; None for what the task says.
        generation_length: positions to generate; None for what the task says.
        max_length: most tokens of a request, if the model accepts as many.
        draws: most random masks per likelihood.
        chat: put prompts into the tokenizer's chat template, few-shot examples as turns.
        system: what the chat's system message says.
        add_bos: begin prompts with the tokenizer's BOS.
        folders: with YAML files of one's own tasks.
        files: local data by the name of a task or group.
        allow_code_execution: confirms that generated programs may be run.
        program_seconds: CPU time limit of each, so that a busy machine does not decide a score.
        batch_size: sequences per batch.
        show: instances to print, with prompt and answer.

    Raises:
        ValueError: a number is out of range.
    """

    sampler: Sampler
    tasks: Sequence[str]
    limit: int | None = None
    num_fewshot: int | None = None
    generation_length: int | None = None
    max_length: int = 4096
    draws: int = 128
    chat: bool = False
    system: str | None = None
    add_bos: bool = False
    folders: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    allow_code_execution: bool = False
    program_seconds: float = 10.0
    batch_size: int = 64
    show: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, limit=1, num_fewshot=0, generation_length=1, max_length=2, draws=1, batch_size=1, show=0)
        check(self, "program_seconds", finite(self.program_seconds) and self.program_seconds > 0, "positive and finite")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: lm-eval is not installed, or a task cannot be run.
        """
        tasks = self.prepare(subject)
        from mdm_lightning.evaluation.lm_eval.rows import score_rows, tally_rows

        chosen = {name: _choose(parts, self.limit, subject, name) for name, parts in tasks.items()}
        for name, parts in tasks.items():
            results, tally = self._run(subject, parts, chosen[name])
            settings = {"task": name, **self._settings(parts)}
            yield from score_rows(parts, results, settings)
            yield from tally_rows(tally, settings)
            self._write(subject, name, results)

    def prepare(self, subject: Subject) -> "dict[str, list[Task]]":
        """The tasks with their data, by the names that were asked for; loaded once per subject.

        Raises:
            UserError: there are none, lm-eval is not installed, a task or its data cannot be had, or answers leave no
                room for prompts.
        """
        if not self.tasks:
            raise UserError("evaluation=lm_eval needs evaluation.tasks=[...], such as [gsm8k] or [humaneval]")
        try:
            from mdm_lightning.evaluation.lm_eval.catalogue import Catalogue
        except ImportError as error:
            raise UserError('evaluation=lm_eval needs lm-eval: pip install "mdm-lightning[lm-eval]"') from error
        catalogue = Catalogue(self.folders, self.files, self.num_fewshot, self.allow_code_execution)
        key = json.dumps([list(self.tasks), list(self.folders), dict(self.files), self.num_fewshot])
        with _lm_evals_seeds():
            tasks = subject.once(("lm-eval", key), lambda: catalogue.load(self.tasks))
        self._check_room(subject, [task for parts in tasks.values() for task in parts])
        return tasks

    def _check_room(self, subject: Subject, tasks: "Sequence[Task]") -> None:
        from mdm_lightning.evaluation.lm_eval.model import answer_length, room_for_prompts

        for task in tasks:
            if task.OUTPUT_TYPE == "generate_until":
                options: Any = task.config.generation_kwargs or {}
                length = answer_length(options, self.generation_length)
                room_for_prompts(min(subject.denoiser.length, self.max_length), length)

    def _run(
        self, subject: Subject, tasks: "Sequence[Task]", chosen: Mapping[str, list[int]]
    ) -> "tuple[dict[str, list[Sample]], Tally]":
        """The samples of each task, and what its requests came to."""
        from lm_eval.evaluator import evaluate

        from mdm_lightning.evaluation.lm_eval.model import MaskedDiffusionLM

        used = {task.task_name: task for task in tasks if chosen[task.task_name]}
        for task in used.values():
            task.set_fewshot_seed(FEWSHOT_SEED)  # again: earlier runs have drawn from its generator
        model = MaskedDiffusionLM(
            subject,
            self.sampler,
            ConditionalLikelihood(self.draws, self.batch_size),
            generation_length=self.generation_length,
            max_length=self.max_length,
            batch_size=self.batch_size,
            chat=self.chat,
            add_bos=self.add_bos,
            greedy_tasks={name for name, task in used.items() if _wants_greedy(task)},
        )
        runner = allowing(partial(_run_programs, subject, self._program_runner()))
        everything = all(len(chosen[name]) == len(task.eval_docs) for name, task in used.items())
        with _quietly(), _lm_evals_seeds(), _explained(used), runner if self.allow_code_execution else nullcontext():
            found = evaluate(
                model,
                {"tasks": used},
                samples=None if everything else {name: chosen[name] for name in used},
                bootstrap_iters=0,
                system_instruction=self.system,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=self.chat,
                confirm_run_unsafe_code=self.allow_code_execution,
            )
        samples: Any = found and found.get("samples")
        return samples, model.tally

    def _settings(self, tasks: "Sequence[Task]") -> dict[str, str | int | float]:
        settings: dict[str, str | int | float] = {"fewshot": max(task.config.num_fewshot for task in tasks)}
        if any(task.OUTPUT_TYPE == "generate_until" for task in tasks):
            settings |= {
                "generation_length": self.generation_length or "the task's",
                **describe_sampler(self.sampler),
            }
        if any(task.OUTPUT_TYPE != "generate_until" for task in tasks):
            settings["estimator"] = f"count-based bound, up to {self.draws} masks"
        if self.chat:
            settings["chat"] = "template"
        if any(getattr(task, "UNSAFE_CODE", False) for task in tasks):
            settings["programs_apart_by"] = str(self._program_runner().isolation)
        return settings

    def _program_runner(self) -> ProgramRunner:
        """As many programs at a time as there are cores, over all processes of this machine."""
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return ProgramRunner(self.program_seconds, workers=max(1, cores() // ranks))

    def _write(self, subject: Subject, name: str, results: Mapping[str, Sequence[Sample]]) -> None:
        """Every prompt, answer and score, as JSON lines, and a few of them to read."""
        samples = [{"task": task, **sample} for task, part in results.items() for sample in part]
        lines = "".join(to_json(sample, indent=None, default=str) for sample in samples)
        subject.outputs.file(f"lm_eval_{name.replace('/', '_')}.jsonl", lines)
        for number, sample in enumerate(samples[: self.show]):
            scores = ", ".join(f"{metric}: {sample[metric]}" for metric in sample["metrics"])
            subject.outputs.text(f"{name}/{number}", f"{_shown(sample)}\n{scores}")


def _shown(sample: Sample) -> str:
    """A prompt with its answer, or with the log-likelihoods of the possible ones; or a text with its own, in nats."""
    lines = [str(sample["arguments"][0][0])]
    for arguments, (answer, *_) in zip(sample["arguments"], sample["resps"], strict=True):
        if isinstance(answer, str):
            lines.append(f"→ {answer}")
        elif isinstance(answer, tuple):
            lines.append(f"→ {arguments[1]}: {answer[0]:.4g}")
        else:
            lines.append(f"{answer:.4g}")
    return "\n".join(lines)


def _choose(tasks: "Sequence[Task]", limit: int | None, subject: Subject, name: str) -> dict[str, list[int]]:
    """Indices of the instances to use, by task: a random sample, without repetition, over all tasks of a name.

    Raises:
        UserError: there are none left.
    """
    sizes = [len(task.eval_docs) for task in tasks]
    total = sum(sizes)
    if subject.first >= total:
        raise UserError(f"the task {name} has {total} instances, none from {subject.first} on")
    order = np.random.default_rng(subject.seed).permutation(total)[subject.first :][:limit]
    ends = np.cumsum(sizes)
    chosen: dict[str, list[int]] = {task.task_name: [] for task in tasks}
    for number in sorted(order.tolist()):
        part = int(np.searchsorted(ends, number, side="right"))
        chosen[tasks[part].task_name].append(number - int(ends[part] - sizes[part]))
    return chosen


def _wants_greedy(task: "Task") -> bool:
    metrics = task.config.metric_list or []
    return task.OUTPUT_TYPE == "loglikelihood" or any(metric.get("metric") == "exact_match" for metric in metrics)


def _run_programs(subject: Subject, runner: ProgramRunner, programs: Sequence[str]) -> list[Outcome]:
    """Shares programs out among the processes."""
    if not any(runner.isolation):
        log.warning("generated programs run within limits, but apart from nothing: this system does not allow more")
    units = [programs[unit.start : unit.stop] for unit in batches(len(programs), 4 * (runner.workers or 1))]
    return [outcome for part in subject.processes.map(runner.run_all, units, "running programs") for outcome in part]


@contextmanager
def _lm_evals_seeds() -> Iterator[None]:
    """Global generators seeded as lm-eval's own command does it: some tasks shuffle their choices by them."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FEWSHOT_SEED)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _explained(tasks: Iterable[str]) -> Iterator[None]:
    """What lm-eval's tasks raise for data that do not suit them, in one line.

    Raises:
        UserError: instead.
    """
    try:
        yield
    except (AssertionError, KeyError, ValueError) as error:
        if isinstance(error, ValueError) and "larger than population" not in str(error):
            raise  # not of the data, but of the sampler, say
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{' or '.join(tasks)}: lm-eval cannot make prompts or scores of the data ({reason}); are there enough "
            "training examples for evaluation.num_fewshot=, and all the fields that the task wants?"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without lm-eval's own progress bars and announcements."""
    from lm_eval.api import task as module

    logger, bar = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    module.tqdm = lambda documents, **options: documents
    try:
        yield
    finally:
        module.tqdm = bar
        logger.setLevel(level)
