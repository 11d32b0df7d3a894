"""What `--help` says, from the files of the configuration alone: usage, examples, groups with their choices."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mdm_lightning.commands.options.nearest import suggestion

SHARED = "base"  # what the files beside it have in common

_EXAMPLES = {
    "train": [
        ("", "a small model of Python code, in minutes on a laptop"),
        ("model=small data=owt trainer=ddp trainer.devices=8", "MDLM's recipe on 8 GPUs"),
        ("ckpt=last", "go on with the newest run"),
    ],
    "evaluate": [
        ("ckpt=last", "likelihood, loss profile, generation quality, samples"),
        ("ckpt=last evaluation=samples prompt='def main(' sampler=llada", "text after a prompt"),
        ("ckpt=last evaluation=advise orders=[spaced]", "the best order and schedule per step budget"),
    ],
    "sweep": [
        ("ckpt=last", "the grid of conf/sweep.yaml against hand-made schedules"),
        ("ckpt=last schedule.alpha=0.5,0.9 schedule.beta=0.3 sampler.steps=8,16", "a grid of one's own"),
        ("report=FOLDER", "build the report of a sweep again"),
    ],
}

_OF_EVALUATIONS = [
    "Options of evaluations: evaluation.NAME.OPTION is one evaluation's, evaluation.OPTION that of all chosen ones",
    "without a value of their own; prompt=, suffix= and trajectory= are short for evaluation.samples.*.",
]


class Group(NamedTuple):
    """A choice among the files of a folder of the configuration."""

    name: str
    """As it is typed: ``schedule``, ``schedule@training.schedule``."""
    default: str
    comment: str
    """Beside the default, or at the head of the file that it chooses."""


def explain(program: str, name: str, conf: Path, asked: list[str]) -> str:
    """The help of a command, or of the groups that are asked for.

    Args:
        program: how the command is typed.
        name: of its primary file: train, evaluate, sweep.
        conf: folder of the configuration.
        asked: words on the command line beside ``--help``.
    """
    folders = [word.partition("=")[0].partition("@")[0] for word in asked]
    found = [folder for folder in folders if (conf / folder).is_dir()]
    if found:
        return "\n\n".join(_choices(program, conf, folder) for folder in found)
    examples = _EXAMPLES[name]
    widest = max(len(arguments) for arguments, _ in examples)
    groups = list(_groups(conf, name))
    column = max(len(f"{group.name}={group.default}") for group in groups)
    known = [path.name for path in conf.iterdir() if path.is_dir()]
    return "\n".join([
        *(f"There is no group {folder}{suggestion(folder, known)}" for folder in folders),
        f"usage: {program} [group=choice ...] [key=value ...]",
        "",
        *(f"  {program} {arguments:<{widest}}  # {what}" for arguments, what in examples),
        "",
        "Groups, with what is chosen if nothing is said:",
        *(f"  {f'{group.name}={group.default}':<{column}}  {group.comment}".rstrip() for group in groups),
        *(["", *_OF_EVALUATIONS] if any(group.name == "evaluation" for group in groups) else []),
        "",
        f"{program} --help GROUP  # the choices of a group",
        f"{program} --cfg job     # the whole configuration, as the arguments given make it",
    ])  # fmt: skip


def _choices(program: str, conf: Path, folder: str) -> str:
    files = sorted(file for file in (conf / folder).glob("*.yaml") if file.stem != SHARED)
    column = max(len(file.stem) for file in files)
    lines = [f"  {file.stem:<{column}}  {_head(file)}".rstrip() for file in files]
    return "\n".join([f"{program} {folder}=...", *lines])


def _groups(conf: Path, name: str) -> Iterator[Group]:
    """The groups of a primary file, those of the files that it takes in included."""
    text = (conf / f"{name}.yaml").read_text()
    for entry in yaml.safe_load(text)["defaults"]:
        if isinstance(entry, str):
            if entry != "_self_":
                yield from _groups(conf, entry)
            continue
        ((key, chosen),) = entry.items()
        if key.startswith("override "):
            continue
        folder = key.partition("@")[0].strip("/")
        beside = re.search(rf"^ *- {re.escape(key)}: [^#\n]*# *(.*)$", text, re.M)
        comment = beside.group(1) if beside else _head(conf / folder / f"{chosen}.yaml")
        yield Group(key, _shown(chosen), comment)


def _shown(chosen: Any) -> str:
    return "null" if chosen is None else f"[{','.join(chosen)}]" if isinstance(chosen, list) else str(chosen)


def _head(file: Path) -> str:
    """The first comment of a file that is one to read, of one line."""
    if not file.is_file():
        return ""
    comments = (line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")
