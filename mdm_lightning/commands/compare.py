"""`python evaluate.py compare=[RUN1,RUN2]`: runs beside each other, as tables, a figure and a page."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from mdm_lightning.checkpoint.find import RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.run import Run, describe
from mdm_lightning.commands.command import explain
from mdm_lightning.commands.devices import join_ranks, local_ranks, precision_context, ranks_exist
from mdm_lightning.commands.launch import launch_ranks
from mdm_lightning.commands.options.command_line import override
from mdm_lightning.commands.subject import checkpoint_subject
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.report.comparison.build import comparison_text, write_comparison
from mdm_lightning.report.comparison.comparison import Candidate, compare_candidates, run_name, short_names, text_of


def compare_runs(config: DictConfig) -> None:
    """Measures the likelihood of the runs in ``compare=``, with the settings of ``evaluation=likelihood``.

    Raises:
        UserError: there are not two runs, one of them is none, or their data do not go together.
    """
    hydra = HydraConfig.get()
    output = Path(hydra.runtime.output_dir)
    if config.ckpt is not None or config.export is not None:
        raise UserError("compare= goes with neither ckpt= nor export=: it names the runs itself")
    if "likelihood" not in config.evaluation:
        raise UserError("compare= measures the likelihood: evaluation= must have it, as in evaluation=likelihood")
    runs = _find_runs(config.compare)
    ranks = local_ranks(config.trainer)
    if ranks > 1 and not ranks_exist():
        launch_ranks(ranks, [*hydra.overrides.task, override("hydra.run.dir", str(output.resolve()))])
        return
    processes = join_ranks(progress=config.trainer.enable_progress_bar)
    with processes.together(explain):
        candidates = _candidates(runs, config, processes)
        with precision_context(config.trainer, candidates[0].subject.device):
            comparison = compare_candidates(candidates, instantiate(config.evaluation.likelihood))
        if processes.first:
            page = write_comparison(comparison, output)
            print("", comparison_text(comparison), page, sep="\n", flush=True)


def _find_runs(names: Sequence[str]) -> list[Run]:
    """The runs that are named.

    Raises:
        UserError: there are fewer than two, or one is none.
    """
    if len(names) < 2:
        raise UserError("compare= needs two runs or more, as in compare=[RUN1,RUN2]")
    for name in names:
        if names_published(name):
            raise UserError(
                f"compare={name} is a published model: compare= takes runs, mdm.compare in Python takes both"
            )
    runs = [describe(find_checkpoint(name, RUNS, option="compare")) for name in names]
    if len({run.path for run in runs}) < len(runs):
        raise UserError("compare= names the same checkpoint twice")
    return runs


def _candidates(runs: Sequence[Run], config: DictConfig, processes: Processes) -> list[Candidate]:
    names = short_names([run_name(run) for run in runs])
    chosen = config.get("data")
    candidates = []
    for name, run in zip(names, runs, strict=True):
        subject = checkpoint_subject(run, chosen, config.trainer, Path(config.cache_dir), config.seed, processes)
        subject.first = config.evaluation.first
        text = text_of(run.config["data"]) if chosen is None else "chosen"
        candidates.append(Candidate(name, subject, text, run))
    return candidates
