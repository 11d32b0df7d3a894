"""Which tasks of lm-eval a name stands for, and where their data are. Only imported where lm-eval is installed."""

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from mdm_lightning.data.hub import offline_unless_reachable
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.lm_eval.guard import OWN, guarded, is_installed, refuse_fetched_metrics

_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SPLITS = {"train": ("train",), "validation": ("valid", "dev"), "test": ("test",)}

TaskSettings = dict[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """Finds tasks and groups of tasks by name: the user's first, then ours, then lm-eval's own.

    Args:
        folders: with YAML files of the user's tasks.
        files: local data by the name of a task or group: a file, or a folder (see ``_local_data``).
        num_fewshot: examples in each prompt; None for what the task says.
        allow_programs: the user has confirmed that generated programs may be run, and code that tasks name.
    """

    folders: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    num_fewshot: int | None = None
    allow_programs: bool = False

    def load(self, names: Sequence[str]) -> dict[str, list[Task]]:
        """The tasks behind each name, data included.

        Raises:
            UserError: there is no such task, its data cannot be had, or it runs programs or code and may not.
        """
        absent = [folder for folder in self.folders if not Path(folder).expanduser().is_dir()]
        if absent:
            raise UserError(f"evaluation.task_folders: {absent[0]} is no folder with task files")
        with guarded(allowed=self.allow_programs):
            manager = self._manager(names)
            leaves = {name: list(_leaves(manager.task_index, name, {})) for name in names}
            self._refuse_unread_files({*names, *(leaf["task"] for each in leaves.values() for leaf in each)}, manager)
            return {name: [self._build(manager, name, leaf) for leaf in leaves[name]] for name in names}

    def _refuse_unread_files(self, tasks: set[str], manager: TaskManager) -> None:
        """Data of tasks that are not asked for may be there; of what is no task it would go unread."""
        for name in self.files:
            if name not in tasks and name not in manager.task_index and name not in TaskManager().task_index:
                close = difflib.get_close_matches(name, tasks, 1, 0.0)
                raise UserError(f"evaluation.files: there is no task {name}; did you mean {' or '.join(close)}?")

    def _manager(self, names: Sequence[str]) -> TaskManager:
        """An index of tasks; lm-eval's own, which take seconds to go through, only where they are needed."""
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every task of ours that replaces its own
        folders: list[str | Path] = [OWN, *(Path(folder).expanduser() for folder in self.folders)]
        manager = TaskManager(include_path=folders, include_defaults=False)
        if all(_is_complete(manager.task_index, name) for name in names):
            return manager
        manager = TaskManager(include_path=folders)
        for name in names:
            if name not in manager.task_index:
                close = difflib.get_close_matches(name, manager.all_tasks, 3)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise UserError(f"evaluation.tasks: lm-eval has no task {name}{hint}")
        return manager

    def _build(self, manager: TaskManager, requested: str, settings: TaskSettings) -> Task:
        name = settings["task"]
        entry = manager.task_index.get(name)
        path = None if entry is None else entry.yaml_path
        self._refuse_unguarded_programs(name, settings if entry is None else {**(entry.cfg or {}), **settings}, path)
        try:
            with offline_unless_reachable():
                if path is not None:
                    settings = {**load_yaml(path, resolve_func=True), **settings}
                if not (self.allow_programs or (path is not None and is_installed(path))):
                    refuse_fetched_metrics(name, settings)
                settings |= self._data(settings, requested)
                task = manager.load([settings])["tasks"][name]
        except ImportError as error:
            raise UserError(f"the task {name} needs a package that is not installed: {error}") from error
        except TemplateError as error:
            raise UserError(f"a template of the task {name} cannot be rendered: {error}") from error
        except (AssertionError, KeyError, TypeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"the task {name} cannot be built ({reason}); if that is one of its splits, the data lack it: give a "
                f"folder with a file for each split by +evaluation.files.{requested}=PATH"
            ) from error
        except (OSError, ValueError, DatasetsError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot load the data of the task {name} ({reason}); check the network, or give a local copy: "
                f"+evaluation.files.{requested}=PATH"
            ) from error
        shots = task.config.num_fewshot if self.num_fewshot is None else self.num_fewshot
        task.set_config("num_fewshot", shots or 0)
        return task

    def _refuse_unguarded_programs(self, name: str, settings: TaskSettings, path: Path | None) -> None:
        """Programs are run by our tasks, and by the user's own, which are what the user has written."""
        if not settings.get("unsafe_code"):
            return
        if not self.allow_programs:
            raise UserError(
                f"the task {name} runs generated programs: read docs/benchmarks.md, then confirm with "
                "evaluation.allow_code_execution=true"
            )
        known = [OWN, *(Path(folder).expanduser() for folder in self.folders)]
        if path is None or not any(path.is_relative_to(folder) for folder in known):
            raise UserError(
                f"lm-eval's task {name} would run generated programs in this process; those that run apart are "
                f"{', '.join(sorted(_guarded_tasks()))}"
            )

    def _data(self, settings: TaskSettings, requested: str) -> TaskSettings:
        """The settings by which a task reads local data; none for a task without."""
        name = settings["task"]
        given = self.files.get(name, self.files.get(requested))
        if given is None:
            return {}
        path = Path(given).expanduser()
        if not path.exists():
            raise UserError(f"evaluation.files: {path} does not exist; give a file or a folder with the data of {name}")
        return _local_data(path, name, settings)


def _is_complete(index: Mapping[str, Entry], name: str) -> bool:
    """Whether an index has a task, and, if it is a group, all tasks in it."""
    try:
        return all(leaf["task"] in index for leaf in _leaves(index, name, {}))
    except KeyError:
        return False


def _leaves(index: Mapping[str, Entry], name: str, inherited: TaskSettings) -> Iterator[TaskSettings]:
    """The tasks in a group (or the one task) of a name, each with what its groups change of it.

    Raises:
        KeyError: a name is not in the index.
    """
    entry = index[name]
    if entry.kind is Kind.TAG:
        for member in sorted(entry.tags):
            yield from _leaves(index, member, inherited)
    elif entry.kind is Kind.GROUP and entry.yaml_path is not None:
        group = load_yaml(entry.yaml_path, resolve_func=True)
        yield from _members(index, group["task"], inherited, entry.yaml_path.parent)
    else:
        yield {**inherited, "task": name}


def _members(
    index: Mapping[str, Entry], members: Sequence[str | TaskSettings], inherited: TaskSettings, folder: Path
) -> Iterator[TaskSettings]:
    """The tasks among a group's members: names, names with changes, and tasks or groups written out in their parent."""
    for member in members:
        written = {"task": member} if isinstance(member, str) else dict(member)
        if "include" in written:
            written = {**load_yaml(folder / written.pop("include"), resolve_func=True), **written}
        changes = {key: value for key, value in written.items() if key not in ("task", "group")}
        name = str(written.get("group", written.get("task")))
        if isinstance(written.get("task"), list):
            yield from _members(index, written["task"], inherited, folder)
        elif name in index:
            yield from _leaves(index, name, {**inherited, **changes})
        else:
            yield {**inherited, **changes, "task": name}


def _local_data(path: Path, task: str, settings: TaskSettings) -> TaskSettings:
    """How to read a task's data from a path.

    A file holds the split that is evaluated. A folder holds, for a group, a file or folder for each of its tasks, by
    their names; or files that are named after the splits; or it is a clone of the data set's repository.

    Raises:
        UserError: the file is of an unknown kind.
    """
    if path.is_dir():
        own = [path / task, *(path / f"{task}{suffix}" for suffix in _FORMATS)]
        for candidate in own:
            if candidate.exists():
                return _local_data(candidate, task, settings)
        splits = {split: file for file in sorted(path.iterdir()) if file.suffix in _FORMATS for split in _splits(file)}
        if not splits:
            return {"dataset_path": str(path)}
    else:
        evaluated = settings.get("test_split") or settings.get("validation_split") or "test"
        splits = {evaluated: path}
    formats = {file.suffix for file in splits.values()}
    if len(formats) > 1 or not formats <= _FORMATS.keys():
        raise UserError(f"evaluation.files: {path} should hold one of {', '.join(_FORMATS)}")
    renamed = _as_the_task_calls_them(splits, settings)
    return {
        "dataset_path": _FORMATS[formats.pop()],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in renamed.items()}},
    }


def _splits(file: Path) -> list[str]:
    return [split for split, words in _SPLITS.items() if any(word in file.stem.lower() for word in words)]


def _as_the_task_calls_them(splits: Mapping[str, Path], settings: TaskSettings) -> dict[str, Path]:
    """Splits under the names that the task has for them: MBPP's examples, say, are its ``prompt`` split."""
    named = {kind: settings.get(f"{'training' if kind == 'train' else kind}_split") for kind in _SPLITS}
    return {named.get(kind) or kind: file for kind, file in splits.items()}


def _guarded_tasks() -> Iterator[str]:
    for path in OWN.rglob("*.yaml"):
        settings = load_yaml(path, resolve_func=False)
        if settings.get("unsafe_code") and "task" in settings:
            yield settings["task"]
