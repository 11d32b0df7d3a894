"""`python evaluate.py ckpt=...`: a checkpoint's numbers, as tables, figures and files. `compare=[...]`: several runs'.

Without a checkpoint: those of the exact denoiser of a distribution that `data=` gives, and of evaluations that need
none.
"""

import csv
import dataclasses
import io
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.checkpoint.advice import warn_of_another_model
from mdm_lightning.checkpoint.run_folder import refuse_results
from mdm_lightning.commands.command import explain, held
from mdm_lightning.commands.compare import compare_runs
from mdm_lightning.commands.devices import join_ranks, leads, local_ranks, precision_context, ranks_exist
from mdm_lightning.commands.export import choose_layout, export, refuse_occupied
from mdm_lightning.commands.launch import launch_ranks
from mdm_lightning.commands.options.command_line import override, same_command
from mdm_lightning.commands.program import typed, typed_again, typed_path
from mdm_lightning.commands.subject import (
    choose_origin,
    describe_origin,
    find_origin,
    load_subject,
    needs_checkpoint,
    pin_scorer,
)
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Evaluation, NoData, NotApplicable, Row, Settings, Study, Subject
from mdm_lightning.files import replacing, to_json, write_atomically
from mdm_lightning.tables import markdown_table
from mdm_lightning.training.dashboards import TensorBoard, verbatim

log = logging.getLogger(__name__)

# Options that say which model is evaluated on what, and with what.
_OF_THE_MODEL = ("ckpt", "published", "data", "tokenizer", "trainer", "cache_dir")

LONGEST_SERIES = 20  # rows of one metric that are worth printing


def evaluate(config: DictConfig) -> None:
    """Runs the chosen evaluations on a checkpoint, over as many processes as ``trainer`` says.

    Raises:
        UserError: there is no such checkpoint, it does not fit the request, or the folder is another evaluation's.
    """
    output = Path(HydraConfig.get().runtime.output_dir)
    if not leads():
        _evaluate(config, output)
        return
    with held(output, "evaluation", "run_dir="):
        refuse_results(output)
        _evaluate(config, output)


def _evaluate(config: DictConfig, output: Path) -> None:
    if config.compare is not None:
        compare_runs(config)
        return
    scorer = pin_scorer(config)
    evaluations = build_evaluations(config.evaluation)
    if config.export is not None:  # before the work; nothing is written until all processes have come this far
        refuse_occupied(Path(config.export))
    origin = find_origin(config)
    if origin is None:
        _conduct(evaluations, config, output)
        return
    if leads() and config.advice is not None:
        warn_of_another_model(config.advice, origin.name, origin.fingerprint)
    ranks = local_ranks(config.trainer)
    if ranks > 1 and not ranks_exist():
        hydra = HydraConfig.get()
        pinned = choose_origin(origin), *scorer, override("hydra.run.dir", str(output.resolve()))
        launch_ranks(ranks, same_command(hydra, *pinned), hydra.runtime.cwd)
        return
    processes = join_ranks(progress=config.trainer.enable_progress_bar)
    with processes.together(explain):
        started = time.perf_counter()
        subject = load_subject(
            origin, config.get("data"), config.trainer, Path(config.cache_dir), config.seed, processes
        )
        subject.first = config.evaluation.first
        layout = None if config.export is None else choose_layout(subject.denoiser, origin)  # fails before the work
        results = Results(output, config.logger if processes.first else {}, origin.step)
        if processes.first:
            log.info("%s, on %s", describe_origin(origin), subject.device)
            subject = dataclasses.replace(subject, outputs=results)
        try:
            with precision_context(config.trainer, subject.device):
                if evaluations or layout is None:
                    run_evaluations(evaluations, subject, results.add if processes.first else _ignore)
            if layout is not None and processes.first:
                export(subject, layout, origin, results.rows, Path(str(config.export)))
                log.info("written: %s", config.export)
        finally:
            if processes.first:
                _conclude(results, started)


def build_evaluations(config: DictConfig) -> dict[str, Evaluation]:
    """The evaluations in a configuration that also holds what they share."""
    return {
        str(name): instantiate(part) for name, part in config.items() if OmegaConf.is_dict(part) and "_target_" in part
    }


def run_evaluations(evaluations: Mapping[str, Evaluation], subject: Subject, add: Callable[[str, Row], None]) -> None:
    """Runs one evaluation after the other; those that do not suit the data are left out, unless all are.

    Args:
        add: receives every row as soon as it is there, with the name of its evaluation.

    Raises:
        NotApplicable: no evaluation suits the data.
    """
    unsuited = []
    for name, evaluation in evaluations.items():
        try:
            for row in evaluation(subject):
                add(name, row)
        except NotApplicable as error:
            unsuited.append(error)
            log.log(logging.INFO if isinstance(error, NoData) else logging.DEBUG, "%s is left out: %s", name, error)
    if len(unsuited) == len(evaluations):
        raise unsuited[0] if unsuited else UserError("there is nothing to evaluate: choose evaluation=")


class Results:
    """The rows, figures and texts of an evaluation run. Every row is on disk as soon as it is there.

    Args:
        folder: for ``results.csv``, ``results.json``, figures and pages.
        loggers: configurations of TensorBoard and others.
        step: optimizer step of the checkpoint, for the loggers.
    """

    def __init__(self, folder: Path, loggers: Mapping[str, DictConfig], step: int) -> None:
        self.folder = folder
        self.loggers: list[Logger] = [instantiate(logger) for logger in loggers.values()]
        self.step = step
        self.rows: dict[str, list[Row]] = {}
        self.texts: dict[str, str] = {}

    def add(self, evaluation: str, row: Row) -> None:
        rows = self.rows.setdefault(evaluation, [])
        if row.tag not in (known.tag for known in rows) and math.isfinite(row.value):
            for logger in self.loggers:
                logger.log_metrics({f"{evaluation}/{row.tag}": row.value}, self.step)
        rows.append(row)
        write_atomically(self.folder / "results.csv", self._csv())
        write_atomically(self.folder / "results.json", self._json())

    def figure(self, name: str, figure: Figure) -> None:
        with replacing(self.folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        for board in self._boards():
            board.log_figure(name, figure, self.step)

    def text(self, name: str, text: str, *, markdown: bool = False) -> None:
        self.texts[name] = text
        for board in self._boards():
            board.log_text(name, text if markdown else verbatim(text), self.step)

    def file(self, name: str, content: str) -> str:
        write_atomically(self.folder / name, content)
        return str(self.folder / name)

    def command(self, *options: str, **paths: str) -> str:
        chosen = [typed_path(name, Path(path)) for name, path in paths.items()]
        return typed("evaluate", *typed_again(*_OF_THE_MODEL), *options, *chosen)

    def close(self) -> None:
        """Shows the tables, and lets the loggers write what they still hold."""
        for board in self._boards():
            board.log_layout()
            for name, rows in self.rows.items():
                board.log_text(f"results/{name}", table(name, rows), self.step)
        for logger in self.loggers:
            logger.finalize("success")

    def report(self) -> str:
        """Texts and tables, to print."""
        texts = [
            f"{name}:\n" + "\n".join("  | " + line for line in text.splitlines()) for name, text in self.texts.items()
        ]
        return "\n\n".join([*texts, *(table(name, rows) for name, rows in self.rows.items())])

    def _boards(self) -> list[TensorBoard]:
        return [logger for logger in self.loggers if isinstance(logger, TensorBoard)]

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["evaluation", "metric", "value", "stderr", "n", "better", "settings"])
        for evaluation, rows in self.rows.items():
            for row in rows:
                writer.writerow([evaluation, *row[:4], row.better or "", _words(row.settings)])
        return text.getvalue()

    def _json(self) -> str:
        return to_json(
            [{"evaluation": name, **row.plain()._asdict()} for name, rows in self.rows.items() for row in rows]
        )


def table(evaluation: str, rows: Sequence[Row]) -> str:
    """The rows of one evaluation as a Markdown table, the settings on which they agree above it.

    Of the others, as many become columns as it takes to tell the rows apart.
    """
    values: dict[str, set[str | int | float]] = {}
    for row in rows:
        for name, value in row.settings.items():
            values.setdefault(name, set()).add(value)
    agreed = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    heading = f"**{evaluation}**" + (f" ({_words(agreed)})" if agreed else "")
    if max(Counter(row.metric for row in rows).values()) > LONGEST_SERIES:
        return f"{heading}: {len(rows)} rows, in results.csv"
    apart: list[str] = []
    for name in (name for name in values if name not in agreed):
        if len({(row.metric, *_choose(row, apart)) for row in rows}) < len(rows):
            apart.append(name)
    errors = [_error(row) for row in rows]
    column = ["std. error"] if any(errors) else []
    header = ["metric", *apart, "value", *column, "n"]
    cells = [
        [row.metric, *_choose(row, apart), f"{row.value:.5g}", *([error] if column else []), str(row.n)]
        for row, error in zip(rows, errors, strict=True)
    ]
    return f"{heading}\n\n{markdown_table(header, cells, left=1 + len(apart))}"


def _error(row: Row) -> str:
    if row.exact:
        return "exact"
    return "" if row.stderr is None else f"{float(f'{row.stderr:.2g}'):g}"


def _choose(row: Row, names: Sequence[str]) -> list[str]:
    return [str(row.settings.get(name, "")) for name in names]


def _words(settings: Settings) -> str:
    return "; ".join(f"{name}: {value}" for name, value in settings.items())


def _conduct(evaluations: Mapping[str, Evaluation], config: DictConfig, output: Path) -> None:
    """Runs evaluations that need no denoiser, in one process.

    Raises:
        UserError: one of them needs a denoiser.
    """
    started = time.perf_counter()
    studies = {name: evaluation for name, evaluation in evaluations.items() if isinstance(evaluation, Study)}
    if len(studies) < len(evaluations) or not studies:
        raise needs_checkpoint("evaluate")
    if not join_ranks(progress=False).first:
        return
    results = Results(output, config.logger, step=0)
    for name, evaluation in studies.items():
        for row in evaluation.study(results):
            results.add(name, row)
    _conclude(results, started)


def _conclude(results: Results, started: float) -> None:
    results.close()
    if not results.rows:
        return
    seconds = time.perf_counter() - started
    print("", results.report(), f"\n{results.folder}/results.csv, after {seconds:.1f} s", sep="\n", flush=True)


def _ignore(evaluation: str, row: Row) -> None:
    """What processes other than the first do with their rows, which are the same."""
