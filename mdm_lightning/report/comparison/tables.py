"""A comparison in words, in tables, and as a figure."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from mdm_lightning.report.comparison.comparison import BITS, Compared, Comparison, Difference
from mdm_lightning.report.lines import COLOURS
from mdm_lightning.report.notation import number, signed, words
from mdm_lightning.report.tables import MISSING, Item, Table

MOST = 40  # characters of a setting


def verdicts(comparison: Comparison) -> list[str]:
    """A sentence on each model but the first: whether it is better, by how much, and how sure that is."""
    first, units = comparison.models[0], comparison.units
    sentences = []
    for model in comparison.models[1:]:
        difference = comparison.difference(model)
        better, worse = (model, first) if difference.value < 0 else (first, model)
        gap = _with_error(Difference(abs(difference.value), difference.stderr))
        row = model.row(comparison.metric)
        how = f"{'paired' if comparison.paired else 'unpaired, other tokens'}, n = {row.n if row else 0}"
        if difference.significant:
            sentences.append(f"{better.name} is better than {worse.name} by {gap} {units} ({how}).")
        else:
            sentences.append(f"{model.name} and {first.name} cannot be told apart: {gap} {units} ({how}).")
    return sentences


def tables(comparison: Comparison) -> list[Table]:
    """Likelihood, runs, and settings that differ, if any do."""
    return [likelihood_table(comparison), runs_table(comparison.models), *settings_tables(comparison.models)]


def likelihood_table(comparison: Comparison) -> Table:
    """What each model was measured at; bold: differences whose 95 % interval excludes zero."""
    first = comparison.models[0]
    metrics = [row.metric for row in first.rows if all(model.row(row.metric) for model in comparison.models)]
    if not comparison.paired:
        metrics = [comparison.metric]
    rows = []
    for model in comparison.models:
        found = [row for metric in metrics if (row := model.row(metric)) is not None]
        items = [Item(model.name), *(Item(_with_error(Difference(row.value, row.stderr))) for row in found)]
        difference = comparison.difference(model)
        gap = Item("reference") if model is first else Item(_with_error(difference, plus=True), difference.significant)
        rows.append([*items, gap, Item(str(found[0].n))])
    how = "same sequences, same masks" if comparison.paired else "same text in other tokens"
    caption = f"Likelihood ± standard error, {how}; bold: its 95 % interval excludes zero"
    if len(comparison.models) > 2:
        caption += " (not corrected for the number of models)"
    header = ["model", *map(_title, metrics), f"minus {first.name}, {comparison.units}", "n"]
    return Table("Likelihood", caption, header, rows)


def runs_table(models: Sequence[Compared]) -> Table:
    """How far each model was trained, how large it is, how fast it went."""
    header = ["model", "steps", "tokens", "parameters", "tokens/s", "last training loss", "best validation loss"]
    rows = []
    for model in models:
        steps = MISSING if model.step is None else f"{model.step:,}"
        if model.step is not None and model.steps is not None and model.step < model.steps:
            steps += f" of {model.steps:,}"
        training, validation = model.curves.get("train/loss"), model.curves.get("val/loss")
        items = [
            steps,
            MISSING if model.tokens is None else f"{model.tokens:,}",
            f"{model.parameters:,}",
            MISSING if model.speed is None else f"{model.speed:,.0f}",
            f"{list(training.values())[-1]:.4f}" if training else MISSING,
            f"{min(validation.values()):.4f}" if validation else MISSING,
        ]
        rows.append([Item(model.name), *map(Item, items)])
    return Table("Runs", "Runs; losses in nats per token, tokens/s is the median over the log's windows", header, rows)


def settings_tables(models: Sequence[Compared]) -> list[Table]:
    """The settings in which runs differ; none where they do not, or where there are not two runs."""
    runs = [model for model in models if model.settings]
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = []
    for name in names:
        values = [run.settings.get(name, MISSING) for run in runs]
        if len(set(values)) > 1:
            shown = [value if len(value) <= MOST else f"{value[: MOST - 1]}…" for value in values]
            rows.append([Item(name), *map(Item, shown)])
    table = Table("Settings", "Settings that differ", ["setting", *(run.name for run in runs)], rows)
    return [table] if rows else []


def curves_figure(comparison: Comparison) -> Figure | None:
    """Training and validation losses against optimizer steps, a colour for each model; None if nothing was logged."""
    bits = not comparison.paired and all(f"val/{BITS}" in model.curves for model in comparison.models)
    name, label = (BITS, "bits per byte") if bits else ("loss", "NELBO (nats per token)")
    drawn = [model for model in comparison.models if any(f"{part}/{name}" in model.curves for part in ("train", "val"))]
    if not drawn:
        return None
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = dict(zip(("train", "val"), figure.subplots(1, 2, sharey=True), strict=True))
    for place, model in enumerate(drawn):
        for part, axes in panels.items():
            curve = model.curves.get(f"{part}/{name}", {})
            style = {"color": COLOURS[place % len(COLOURS)], "marker": "o" if part == "val" else None, "markersize": 4}
            axes.plot(list(curve), list(curve.values()), label=model.name, **style)
    for (part, axes), title in zip(panels.items(), ("Training", "Validation"), strict=True):
        axes.set(title=title, xlabel="optimizer step", ylabel=label if part == "train" else "")
        axes.grid(alpha=0.3)
    figure.legend(*panels["val"].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _title(metric: str) -> str:
    return words(metric).replace("nelbo ", "NELBO, ")


def _with_error(number_: Difference, *, plus: bool = False) -> str:
    """A number to two digits of its standard error: ``4.788 ± 0.023``."""
    value, error = number_
    write = signed if plus else number
    if error is None or not math.isfinite(error):
        return write(value, 4)
    digits = 4 if error == 0 else min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{write(value, digits)} ± {error:.{digits}f}"
