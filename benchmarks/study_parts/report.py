"""Tables and figures of a study, from its files alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdm_lightning.diffusion.profile.cross_fitting import Estimate
from mdm_lightning.evaluation.generation.matched_entropy import Curve
from mdm_lightning.files import write_atomically
from mdm_lightning.tables import markdown_table
from study_parts.answers import LINEAR, Grid, budgets, replicated, signed
from study_parts.figures import write_figures
from study_parts.models import CORPORA
from study_parts.results import read
from study_parts.size import CPU

Seeds = Mapping[int, Mapping[str, Any]]
"""What was found, by part, of each seed."""


def write_report(out: Path) -> str:
    """Writes ``study.md`` and ``figures/`` for what is there, and returns the answers."""
    found = read_all(out)
    answered = answers(found)
    sections = [
        "## Which order and schedule in K steps", answered,
        "## Orders", orders(found),
        "## Schedules", schedule_table(found),
        "## Loss profile and walks in random order", profiles(found),
        "## Advice", advice(found),
        "## Adaptive samplers", adaptive(found),
        "## Frontiers", frontiers(found),
    ]  # fmt: skip
    write_atomically(out / "study.md", "\n\n".join(sections) + "\n")
    write_figures(found, out / "figures")
    return answered


def read_all(out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """By set of data and seed, what was found of each part."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for folder in sorted(out.glob("seed*/*/")):
        if folder.name != "runs" and (parts := read(folder)):
            found.setdefault(folder.name, {})[int(folder.parent.name.removeprefix("seed"))] = parts
    known = [data for data in (*CORPORA, *CPU.tasks) if data in found]
    return {data: found[data] for data in (*known, *sorted(found.keys() - set(known)))}


def _with(found: Mapping[str, Seeds], part: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """What has a part."""
    return _those(found, lambda one: part in one)


def _gridded(found: Mapping[str, Seeds], part: str = "") -> dict[str, dict[int, Mapping[str, Any]]]:
    """What has orders and schedules, and a part beside them."""
    return _those(found, lambda one: bool({"likelihood", "accuracy"} & one.keys()) and (not part or part in one))


def _those(
    found: Mapping[str, Seeds], wanted: Callable[[Mapping[str, Any]], bool]
) -> dict[str, dict[int, Mapping[str, Any]]]:
    chosen = {data: {seed: one for seed, one in seeds.items() if wanted(one)} for data, seeds in found.items()}
    return {data: seeds for data, seeds in chosen.items() if seeds}


def answers(found: Mapping[str, Seeds]) -> str:
    """The best cell of the first seed, its gain there and elsewhere, and the best cells of the others."""
    rows = []
    for data, seeds in _gridded(found).items():
        for steps in budgets(next(iter(seeds.values()))):
            grids = [Grid.of(one, steps) for one in seeds.values()]
            first, *others = grids
            key = first.best()
            base = np.mean(first.cells[first.baseline]["scores"])
            said = [
                " / ".join(signed(grid.mean(key)) for grid in others),
                " / ".join(g.label(g.best()) for g in others),
            ]
            n = str(len(first.gains(key)))
            row = [data, str(steps), f"{base:.3f}", first.label(key), signed(first.cross_fitted()), *said]
            rows.append([*row, replicated(grids), n])
    header = ["data", "steps", "random, linear", "best", "gain (cross-fitted)", "its gain, other seeds",
              "best, other seeds", "holds", "n"]  # fmt: skip
    return markdown_table(header, rows, left=2)


def orders(found: Mapping[str, Seeds]) -> str:
    """Every order with linear counts: what it gains over random order, in each seed."""
    tables = []
    for data, seeds in _gridded(found).items():
        steps = budgets(next(iter(seeds.values())))
        grids = [[Grid.of(one, k) for one in seeds.values()] for k in steps]
        keys = [key for key in grids[0][0].cells if key[1] == LINEAR]
        gains = [[[grid.mean(key) for grid in beside] for beside in grids] for key in keys]
        rows = [[key[0], *map(_beside, own)] for key, own in zip(keys, gains, strict=True)]
        largest = [max(gain.stderr for own in gains for gain in own[i]) for i in range(len(steps))]
        rows.append(["largest standard error", *(f"{error:.3f}" for error in largest)])
        tables.append(f"{data}:\n\n{markdown_table(['order', *(f'{k} steps' for k in steps)], rows)}")
    return "\n\n".join(tables)


def schedule_table(found: Mapping[str, Seeds]) -> str:
    """What every schedule gains over the linear one in the same order, on average over the step budgets, in each
    seed."""
    rows, header = [], list[str]()
    for data, seeds in _gridded(found).items():
        grids = [[Grid.of(one, steps) for steps in budgets(one)] for one in seeds.values()]
        first = grids[0][0]
        names = [name for order, name in first.cells if order == first.baseline[0] and name != LINEAR]
        header = ["data", "order", *names]
        for order in dict.fromkeys(order for order, _ in first.cells):
            gains = [[_mean_over_linear(own, order, name) for own in grids] for name in names]
            rows.append([data, order, *map(_beside, gains)])
    return markdown_table(header, rows, left=2)


def _mean_over_linear(grids: Sequence[Grid], order: str, name: str) -> Estimate:
    return Estimate.of(np.mean([grid.gains((order, name)) - grid.gains((order, LINEAR)) for grid in grids], axis=0))


def _beside(gains: Sequence[Estimate]) -> str:
    """One number for each seed."""
    return " / ".join(f"{gain.value:+.3f}" for gain in gains)


def profiles(found: Mapping[str, Seeds]) -> str:
    """What the loss profile predicts of random order with linear counts, and what walks along it cost."""
    rows = []
    for data, seeds in _gridded(found, "profile").items():
        for seed, one in seeds.items():
            for steps, (value, stderr) in one["profile"]["nelbo"].items():
                grid = Grid.of(one, int(steps))
                walked = Estimate.of(np.array(grid.cells[grid.baseline]["scores"]))
                rows.append([data, str(seed), steps, f"{value:.3f} ± {stderr:.3f}",
                             f"{walked.value:.3f} ± {walked.stderr:.3f}"])  # fmt: skip
    return markdown_table(["data", "seed", "steps", "loss profile", "walks"], rows, left=2)


def advice(found: Mapping[str, Seeds]) -> str:
    """What advice says, what its race confirmed, and what it loses against the best cell of the grid."""
    rows = []
    for data, seeds in _gridded(found, "advice").items():
        for seed, one in seeds.items():
            for said in one["advice"]:
                grid = Grid.of(one, said["steps"])
                scores = np.array(said["scores"])
                base = np.array(grid.cells[grid.baseline]["scores"])[: len(scores)]
                own, best = grid.sign * (scores - base), grid.gains(grid.best())
                n = min(len(own), len(best))
                confirmed = "-" if said["gain"] is None else signed(Estimate(*said["gain"][:2]))
                numbers = [confirmed, signed(Estimate.of(own)), signed(Estimate.of(best[:n] - own[:n]))]
                rows.append([data, str(seed), str(said["steps"]), said["use"], *numbers, f"{said['passes']:,}"])
    header = ["data", "seed", "steps", "use", "confirmed gain", "gain on the grid's instances",
              "best of the grid minus it", "passes"]  # fmt: skip
    return markdown_table(header, rows, left=4)


def adaptive(found: Mapping[str, Seeds]) -> str:
    """Adaptive counts against planned ones at equal cost: below zero the adaptive one is better."""
    rows = []
    for data, seeds in _with(found, "adaptive").items():
        for seed, one in seeds.items():
            for cell in one["adaptive"]:
                scores = np.array(cell["scores"])
                planned = [signed(Estimate.of(scores - np.array(other))) for other in cell["planned"].values()]
                passes = Estimate.of(np.array(cell["passes"]))
                rows.append([data, str(seed), cell["count"], f"{passes.value:.1f} ± {passes.stderr:.1f}",
                             f"{scores.mean():.3f}", *planned])  # fmt: skip
    header = [
        "data",
        "seed",
        "count",
        "passes",
        "nats/token",
        "minus its order, planned",
        "minus random",
        "minus spaced",
    ]
    return markdown_table(header, rows, left=3)


def frontiers(found: Mapping[str, Seeds]) -> str:
    """The scorer's nats per token at the entropy of held-out text, and the difference to random order."""
    rows = []
    for data, seeds in _with(found, "frontier").items():
        for seed, one in seeds.items():
            part = one["frontier"]
            for steps in dict.fromkeys(curve["steps"] for curve in part["curves"]):
                own = {c["order"]: curve_of(c).at(part["held_out"][0]) for c in part["curves"] if c["steps"] == steps}
                rows.append([data, str(seed), str(steps), f"{part['held_out'][1]:.3f}", *_heights(own)])
    header = ["data", "seed", "steps", "held-out text", "Random", "Spaced − Random", "Entropy − Random"]
    return markdown_table(header, rows, left=3)


def _heights(own: Mapping[str, Any]) -> list[str]:
    base = own["Random"]
    if base is None:
        return ["not reached", "-", "-"]
    differences = [None if own[o] is None else Estimate.of(own[o] - base) for o in ("Spaced", "Entropy")]
    shown = ["not reached" if one is None else signed(one) for one in differences]
    return [f"{Estimate.of(base).value:.3f} ± {Estimate.of(base).stderr:.3f}", *shown]


def curve_of(content: Mapping[str, Any]) -> Curve:
    """The curve that a file holds."""
    return Curve(content["points"], np.array(content["entropy"]), np.array(content["nats"]))
