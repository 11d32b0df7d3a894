"""What profiles predict of a sweep's cells: each order is profiled once, and the result kept in the sweep's folder."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.command import explain
from mdm_lightning.data.source import digest
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.costs import measure_costs
from mdm_lightning.evaluation.advice.predicted import gap_row, predictable, predicted_gap
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.files import replacing
from mdm_lightning.report.prediction import SOLVED
from mdm_lightning.report.records import PREDICTED_COST, PREDICTOR
from mdm_lightning.sampling.count import FixedCount
from mdm_lightning.sampling.order import PredictedOrder, Random, StaticOrder
from mdm_lightning.sampling.sampler import Sampler

log = logging.getLogger(__name__)

PROFILES = "profiles"
NUMBERS = ("length", "blocks", "sequences", "passes")
OF_PROFILE = ("length", "counts", "values", "covariance")


class Known(NamedTuple):
    """What the profiles of an order have found."""

    by_name: Mapping[str, StepCosts]
    """What a step costs, in nats per sequence or block, by each profile."""
    length: int
    """Positions of a sequence, or of a block."""
    blocks: int
    sequences: int
    passes: int
    """Forward passes of single sequences that it took."""
    profile: LossProfile | None
    """For positions in random order."""


def predict(config: DictConfig, subject: Subject) -> list[Row]:
    """What a cell's sampler costs by the profiles of its order; nothing where none says anything of it."""
    if config.sweep.profile is None:
        return []
    sampler = instantiate(config.sampler)
    if not _predicts(sampler):
        return []
    profile, paths = instantiate(config.sweep.profile), instantiate(config.sweep.paths)
    looks = isinstance(sampler.order, PredictedOrder)
    sampling = _plain(config.sampler)
    if "order" in sampling:  # made of parts, of which the profile depends on the order, or on how tokens are drawn too
        irrelevant = {"schedule", "count", "steps"} if looks else set(sampling) - {"order"}
        sampling = {key: value for key, value in sampling.items() if key not in irrelevant}
    key = digest(sampling, _plain(config.sweep.paths if looks else config.sweep.profile), config.seed)

    def measured() -> Known | None:
        path = Path(config.sweep.dir) / PROFILES / f"{key}.npz"
        known = subject.processes.exchange(_read(path) if subject.processes.first else None)[0]
        if known is not None:
            return known
        try:
            with subject.processes.together(explain):
                at_end = subject.starting_at(own_instances(subject, (paths if looks else profile).sequences).start)
                at_end.seed = config.seed
                costs = measure_costs(sampler, profile, paths, at_end)
        except NotApplicable:  # without data, say
            return None
        except UserError as error:
            log.warning("Cells have no predictions: %s", error)
            return None
        found = Known(costs.averages, costs.length, costs.blocks, costs.sequences, costs.passes, costs.profile)
        if subject.processes.first:
            _write(path, found)
        return found

    known = subject.once(("costs", key), measured)
    return [] if known is None else list(_rows(known, sampler))


def _predicts(sampler: Sampler) -> bool:
    """Whether profiles say something of a sampler's numbers of positions per step."""
    count, order = sampler.count, sampler.order
    if isinstance(order, Random):
        return predictable(sampler)
    known = isinstance(order, PredictedOrder | StaticOrder) and isinstance(count, FixedCount) and not count.remasks
    return known and (sampler.blocks.length is None or isinstance(order, PredictedOrder))


def _rows(known: Known, sampler: Sampler) -> Iterator[Row]:
    """A row for each prediction, in nats."""
    settings = {**describe_sampler(sampler), "passes": known.passes}
    if known.profile is not None:
        gap = predicted_gap(known.profile, sampler, sampler.steps)
        if gap is not None:
            yield gap_row(gap, known.length, known.sequences, {**settings, PREDICTOR: "loss profile"})
        return
    assert isinstance(sampler.count, FixedCount)
    steps = known.length if sampler.steps is None else max(1, sampler.steps // known.blocks)
    counts = sampler.count.counts(sampler.schedule, steps, known.length)
    for name, costs in known.by_name.items():
        # A share that is solved is one of whole sequences, a likelihood one per token.
        cost = costs.score(counts) * known.blocks if name.endswith(SOLVED) else costs.score(counts) / known.length
        yield Row(PREDICTED_COST, cost, None, known.sequences, {**settings, PREDICTOR: name}, "lower")


def own_instances(subject: Subject, wanted: int | None) -> range:
    """The validation sequences that are profiled: the last ones, because cells are measured on the first."""
    total = len(subject.data.validation)
    return range(0 if wanted is None else max(0, total - wanted), total)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _write(path: Path, known: Known) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"costs {name}": costs.costs for name, costs in known.by_name.items()}
    arrays |= {name: getattr(known, name) for name in NUMBERS}
    if known.profile is not None:
        arrays |= {f"profile {name}": getattr(known.profile, name) for name in OF_PROFILE}
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _read(path: Path) -> Known | None:
    """None where there is no such file, or it is damaged: then it is measured again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            prefix = "costs "
            by_name = {name.removeprefix(prefix): StepCosts(arrays[name]) for name in arrays if name.startswith(prefix)}
            numbers = {name: int(arrays[name]) for name in NUMBERS}
            profile = None
            if "profile counts" in arrays:
                length, *measured = (arrays[f"profile {name}"] for name in OF_PROFILE)
                profile = LossProfile(int(length), *measured)
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    return Known(by_name, **numbers, profile=profile)
