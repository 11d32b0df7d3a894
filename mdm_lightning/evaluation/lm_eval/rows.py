"""What lm-eval measured, as rows. Only imported where lm-eval is installed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.lm_eval.model import Tally
from mdm_lightning.evaluation.statistics import standard_error

Sample = Mapping[str, Any]

T = TypeVar("T")


def score_rows(
    tasks: Sequence[Task], results: Mapping[str, Sequence[Sample]], settings: Mapping[str, str | int | float]
) -> Iterator[Row]:
    """A row for each metric and filter over all instances; for groups, then one for each task."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for task in tasks:
        for sample in results.get(task.task_name, ()):
            for metric in sample["metrics"]:
                of_tasks = found.setdefault((metric, sample["filter"]), {})
                of_tasks.setdefault(task.task_name, []).append(sample[metric])
    filters = {choice for _, choice in found}
    by_name = {task.task_name: task for task in tasks}

    def row(metric: str, choice: str, values: list[Any], task: Task, settings: Mapping[str, Any]) -> Row:
        label = metric if len(filters) == 1 else f"{metric}/{choice}"
        better = "higher" if _of_metric(cast(dict[str, bool], task.higher_is_better()), metric, True) else "lower"
        aggregate = _of_metric(cast(dict[str, Any], task.aggregation()), metric, mean)
        if aggregate is not mean:  # perplexity, say, which has no score of an instance
            return Row(label, float(aggregate(values)), None, len(values), settings, better)
        return Row.of_scores(label, [float(value) for value in values], settings, better)

    for (metric, choice), of_tasks in found.items():
        everything = [value for values in of_tasks.values() for value in values]
        yield row(metric, choice, everything, by_name[next(iter(of_tasks))], settings)
    if len(tasks) > 1:
        for (metric, choice), of_tasks in found.items():
            for name, values in of_tasks.items():
                part = {**settings, "task": name, "group": settings.get("task", "")}
                yield row(metric, choice, values, by_name[name], part)


def _of_metric(entries: Mapping[str, T], metric: str, otherwise: T) -> T:
    """What a task says of a metric; of one that is a part of another (pass@1 of pass_at_k), if all say the same."""
    if metric in entries:
        return entries[metric]
    values = list(entries.values())
    return values[0] if values and all(value == values[0] for value in values) else otherwise


def tally_rows(tally: Tally, settings: Mapping[str, str | int | float]) -> Iterator[Row]:
    """What answering cost, how sure likelihoods are, and how many requests did not fit."""
    if tally.completions:
        n = len(tally.completions)
        passes = [float(completion.nfe) for completion in tally.completions]
        positions = [float(completion.positions) for completion in tally.completions]
        seconds = sum(completion.seconds for completion in tally.completions)
        tokens = sum(len(completion.tokens) for completion in tally.completions)
        for metric, costs in (("forward_passes", passes), ("tokens_computed", positions)):
            yield Row(metric, sum(costs) / n, standard_error(costs), n, settings)
        yield Row("tokens_per_second", tokens / seconds, None, n, settings)
    if tally.bounds:
        errors = [bound.stderr for bound in tally.bounds]
        yield Row("monte_carlo_error_nats", sum(errors) / len(errors), None, len(errors), settings)
    requests = len(tally.completions) + len(tally.bounds)
    if tally.truncated:
        yield Row("truncated_requests", float(tally.truncated), None, requests, settings)
