"""From a command line to the multiruns of a sweep: the grid, the hand-made schedules beside it, the shortlist.

A multirun is a command line of which some options have several values: its cells are all combinations of them.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from mdm_lightning.commands.options.command_line import line, parse
from mdm_lightning.commands.sweep.cell import SHARED
from mdm_lightning.errors import UserError

Overrides = list[str]


@dataclass(frozen=True)
class SweepPlan:
    """What the command line asks for.

    Attributes:
        base: overrides with one value each, which all cells share.
        axes: overrides with several values.
        settings: ``sweep`` of the composed configuration.

    Raises:
        UserError: something is swept that all cells must share.
    """

    base: Sequence[Override]
    axes: Sequence[Override]
    settings: DictConfig

    def __post_init__(self) -> None:
        for axis in self.axes:
            name = _key(axis)
            if name.split(".")[0] in SHARED or name.startswith("hydra"):
                raise UserError(f"{name} cannot be swept: all cells of a sweep share it. Run a sweep for each value")

    @property
    def searches(self) -> bool:
        """Whether a sweeper of the user's choice, and not the grid, decides which cells there are."""
        return any(_key(override) == "hydra/sweeper" for override in self.base)

    def grid(self) -> list[Overrides]:
        """The multiruns of the first stage: what is swept, and the baselines under the same other options.

        The schedules and step budgets of the configuration stand in for axes that the command line does not mention.
        """
        settings, named = self.settings, {_key(override) for override in (*self.base, *self.axes)}
        own_schedule = any(_is_schedule(name) for name in named)
        axes = [line(axis) for axis in self.axes]
        if not (own_schedule or self.searches):
            axes += [_axis("schedule.alpha", settings.alpha), _axis("schedule.beta", settings.beta)]
        if "sampler.steps" not in named and not self.searches:
            axes.append(_axis("sampler.steps", settings.steps))
        runs = [[*map(line, self.base), *axes]]
        if settings.baselines and not any(_key(axis) == "schedule" for axis in self.axes):
            runs.append(self._under([a for a in axes if not _is_schedule(a.split("=")[0])], settings.baselines))
        return runs

    def refinement(
        self, shortlist: dict[int | None, list[tuple[float, float]]], first: int, size: int | None
    ) -> list[Overrides]:
        """The multiruns of the second stage.

        Args:
            shortlist: (alpha, beta) of the schedules to measure again, by step budget.
            first: index of the first fresh instance.
            size: number of instances; None for all that are left.
        """
        stage = ["sweep.stage=refined", f"evaluation.first={first}", f"evaluation.sequences={_value(size)}"]
        others = [line(axis) for axis in self.axes if not _is_schedule_or_steps(_key(axis))]
        runs = []
        for steps, pairs in shortlist.items():
            budget = [*stage, *others, f"sampler.steps={_value(steps)}"]
            if pairs:
                schedules = [f"{{alpha:{alpha},beta:{beta}}}" for alpha, beta in pairs]
                runs.append(self._under(budget, schedules))
            if self.settings.baselines:
                runs.append(self._under(budget, self.settings.baselines))
        return runs

    def cells(self, runs: Iterable[Overrides]) -> int | None:
        """How many cells some multiruns have; None if a search decides."""
        if self.searches:
            return None
        return sum(len(combinations(run)) for run in runs)

    def shared(self) -> set[str]:
        """What all cells share, or a whole stage, and so tells none of them apart."""
        of_a_stage = {"sweep.stage", "evaluation.first", "evaluation.sequences"}
        return {_key(override) for override in self.base} | {"sweep.dir", "ckpt"} | of_a_stage

    def exclude_keys(self) -> str:
        """The override that keeps what all cells share out of the names that Hydra gives to their folders."""
        keys = self.shared() | {"hydra.job.config.override_dirname.exclude_keys"}
        return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(repr(key) for key in sorted(keys))}]"

    def _under(self, axes: Overrides, schedules: Iterable[str]) -> Overrides:
        """The multirun of given schedules under ``axes`` and the options that all cells share."""
        replaced = {_key(axis) for axis in parse(axes)}
        # Where the schedules are given, a search for their parameters has nothing to find.
        searching = ("hydra/sweeper", "hydra.sweeper")
        kept = [override for override in self.base if not _key(override).startswith(searching)]
        base = [line(o) for o in kept if not _is_schedule(_key(o)) and _key(o) not in replaced]
        return [*base, *axes, _axis("schedule", schedules)]


def combinations(run: Overrides) -> list[Overrides]:
    """The command lines of a multirun's cells, in order.

    Raises:
        UserError: an option has an interval of values, of which only a search chooses some.
    """
    options = []
    for override in parse(run):
        if not override.is_sweep_override():
            options.append([line(override)])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            options.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(f"{line(override)}: choose hydra/sweeper=, which searches intervals, or list the values")
    return [list(combination) for combination in itertools.product(*options)]


def _key(override: Override) -> str:
    return override.key_or_group


def _is_schedule(name: str) -> bool:
    return name == "schedule" or name.startswith("schedule.")


def _is_schedule_or_steps(name: str) -> bool:
    return _is_schedule(name) or name == "sampler.steps"


def _value(number: int | None) -> str:
    return "null" if number is None else str(number)


def _axis(key: str, values: Iterable[Any]) -> str:
    return f"{key}={','.join(str(value) for value in values)}"
