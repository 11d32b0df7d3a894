"""Code that a task's YAML has lm-eval run: imported functions, templates, metrics. Only imported with lm-eval.

By lm-eval's design a task is a program: ``!function`` imports a Python file, templates are rendered without a sandbox,
an unknown metric is fetched and run. That is trusted of tasks that are installed with lm-eval or with this package, and
of others once the user has confirmed it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval.tasks
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import _yaml_loader

from mdm_lightning.errors import UserError

OWN = Path(__file__).with_name("tasks")
"""Our versions of tasks whose stock ones run programs unguarded, or need packages that break Hydra."""

_INSTALLED = (OWN.resolve(), Path(lm_eval.tasks.__file__).resolve().parent)


def is_installed(path: Path) -> bool:
    """Whether a task's file, or its folder, is part of lm-eval or of this package."""
    return any(path.resolve().is_relative_to(folder) for folder in _INSTALLED)


@contextmanager
def guarded(*, allowed: bool) -> Iterator[None]:
    """While tasks are looked for and built, functions of tasks that are not installed are imported only if that is
    allowed. It is at the one place where lm-eval imports them that they are stopped: includes, groups and classes all
    lead there.

    Raises:
        UserError: a task names such a function.
    """
    importing = _yaml_loader._import_func_in_yml

    def import_function(name: str, folder: Path) -> Any:
        if not (allowed or is_installed(folder)):
            raise UserError(
                f"a task in {folder} names Python code ({name}), which lm-eval imports into this process: read it, "
                "and docs/benchmarks.md, then confirm with evaluation.allow_code_execution=true"
            )
        return importing(name, folder)

    sandbox_templates()
    with mock.patch.object(_yaml_loader, "_import_func_in_yml", import_function):
        yield


def sandbox_templates() -> None:
    """From now on lm-eval renders tasks' templates in Jinja's sandbox: out of its own, Python can be reached."""
    if not isinstance(utils.env, SandboxedEnvironment):
        # With the settings of lm-eval's own.
        sandbox = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters.update(utils.env.filters)
        utils.env = sandbox


def refuse_fetched_metrics(name: str, settings: Mapping[str, Any]) -> None:
    """Refuses metrics that lm-eval would fetch and run.

    Raises:
        UserError: naming one.
    """
    for metric in settings.get("metric_list") or ():
        called = metric.get("metric") if isinstance(metric, Mapping) else metric
        if isinstance(called, str) and (called not in metric_registry or metric.get("hf_evaluate")):
            raise UserError(
                f"the task {name} has the metric {called}, which is not lm-eval's: it would be fetched and run; "
                "confirm with evaluation.allow_code_execution=true"
            )
