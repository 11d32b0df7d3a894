"""`python evaluate.py ckpt=...`: a checkpoint's numbers, as a table and as files."""

import csv
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.experiment.runs import RUNS, Run, describe, find_checkpoint, load_checkpoint
from mdm_lightning.training.module import DENOISER

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> None:
    """Runs the chosen evaluations on a checkpoint; writes and prints their rows as they come.

    Raises:
        UserError: there is no such checkpoint, or it does not fit its data.
    """
    if config.ckpt is None:
        raise UserError("evaluate.py needs a checkpoint: ckpt=last, ckpt=RUN_FOLDER or ckpt=FILE.ckpt")
    output = Path(HydraConfig.get().runtime.output_dir)
    lightning.seed_everything(config.seed, verbose=False)
    run = describe(find_checkpoint(config.ckpt, RUNS))
    subject = load_subject(run, Path(config.cache_dir), config.device, config.seed)
    log.info("%s at step %s, evaluated on %s", run.path, f"{run.step:,}", subject.data.name)
    rows: list[Row] = []
    seconds = time.perf_counter()
    for evaluation in config.evaluation.values():
        for row in instantiate(evaluation)(subject):
            rows.append(row)
            write_rows(rows, output)  # an interrupted evaluation keeps what it has
    for number, text in enumerate(subject.texts, 1):
        print(f"\nGenerated text {number}:", *("  | " + line for line in text.splitlines()), sep="\n")
    print("", table(rows), "", f"{output}/results.csv, after {time.perf_counter() - seconds:.1f} s", sep="\n")


def load_subject(run: Run, cache: Path, device: str, seed: int) -> Subject:
    """The averaged weights of a run, and the data it was trained on.

    Raises:
        UserError: the data cannot be had, or the device does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}, but there is no GPU here: device=cpu")
    config: Any = OmegaConf.create(run.config)
    data = instantiate(config.data).prepare(instantiate(config.tokenizer), cache)
    if data.tokenizer.fingerprint != run.tokenizer:
        raise UserError(f"the data of {run.path} now make another tokenizer than the one it was trained with")
    denoiser = instantiate(config.model, vocab_size=data.tokenizer.vocab_size)
    weights = load_checkpoint(run.path)["state_dict"]
    denoiser.load_state_dict({k.removeprefix(DENOISER): v for k, v in weights.items() if k.startswith(DENOISER)})
    return Subject(denoiser.to(device).eval(), data, torch.device(device), seed)


def write_rows(rows: Sequence[Row], folder: Path) -> None:
    """Writes ``results.csv`` and ``results.json``."""
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| metric | value | std. error | n | settings |", "| --- | ---: | ---: | ---: | --- |"]
    for row in rows:
        error = "" if row.stderr is None else f"{row.stderr:.2g}"
        lines.append(f"| {row.metric} | {row.value:.5g} | {error} | {row.n} | {row.settings} |")
    return "\n".join(lines)
