"""The closing report of a training run: what was reached, where it lies, what to type next."""

import shlex
import time
from pathlib import Path

from mdm_lightning.checkpoint.find import RUNS
from mdm_lightning.commands.program import typed, typed_again, typed_path
from mdm_lightning.data.entropy import bigram_entropy, unigram_entropy
from mdm_lightning.data.source import PreparedData, why_no_bits_per_byte
from mdm_lightning.data.text.packing import PackedBlocks
from mdm_lightning.files import from_json, to_json, write_atomically

RESULTS = "results.json"

DASHBOARD = "http://localhost:6006/#custom_scalars&_smoothingWeight=0"
"""TensorBoard's usual smoothing shows gaps that are not there."""


def corpus_entropies(data: PreparedData) -> dict[str, float]:
    """Unigram and bigram entropy of the training text in nats per token: what counting alone achieves."""
    if not isinstance(data.train, PackedBlocks):
        return {}
    stream = data.train.stream
    return {"corpus/unigram_entropy": unigram_entropy(stream), "corpus/bigram_entropy": bigram_entropy(stream)}


def results_step(run: Path) -> int | None:
    """The optimizer step that a run's report is about; None if it has none."""
    try:
        return from_json((run / RESULTS).read_text("utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class TrainingReport:
    """Collects the results of a run, writes them to ``results.json`` and prints them.

    Args:
        folder: of the run.
        data: that it was trained on.
        averaged: whether the results are those of averaged weights.
        trained: what is trained of the denoiser, in words; empty if all is.
        exact: the likelihood is no bound, that of an autoregressive model.
        block_size: positions per block where it is that of generating block by block.
    """

    def __init__(
        self,
        folder: Path,
        data: PreparedData,
        *,
        averaged: bool,
        trained: str = "",
        exact: bool = False,
        block_size: int | None = None,
    ) -> None:
        self.folder = folder
        self.trained = trained
        self.averaged = averaged
        self.exact = exact
        self.block_size = block_size
        self.data = data
        self.started = time.perf_counter()

    def write(self, values: dict[str, float], step: int) -> None:
        """Keeps the metrics beside the checkpoints, for scripts."""
        write_atomically(self.folder / RESULTS, to_json({"step": step, "data": self.data.name, "metrics": values}))

    def text(
        self, values: dict[str, float], step: int, tokens: int, speed: float, samples: list[str], *, board: bool
    ) -> str:
        """The report as printed.

        Args:
            values: final metrics, named as in TensorBoard.
            step: optimizer steps taken.
            tokens: tokens trained on.
            speed: tokens per second, median over the run's log windows.
            samples: generated text.
            board: whether TensorBoard has something to show of the run.
        """
        seconds = time.perf_counter() - self.started
        bound = "upper bound" if self.block_size is None else f"upper bound, in blocks of {self.block_size}"
        kind = ["exact" if self.exact else bound, *["averaged weights"] * self.averaged]
        lines = [
            "",
            f"Training         {step:,} steps, {tokens:,} tokens in {seconds:,.0f} s ({speed:,.0f} tokens/s)",
            *([f"Trained          {self.trained}"] if self.trained else []),
            f"Validation NLL   {values['val/loss']:.4f} nats/token ({'; '.join(kind)})",
            f"Perplexity       {values['val/perplexity']:.2f}",
        ]
        if "val/loss_to_first_eos" in values:
            nats, value = values["val/loss_to_first_eos"], values["val/perplexity_to_first_eos"]
            lines += [
                "                 of responses and the fill after their first EOS; up to that EOS alone:",
                f"To first EOS     {nats:.4f} nats/token, perplexity {value:.2f}",
            ]
        if "val/bits_per_byte" in values:
            lines.append(f"Bits per byte    {values['val/bits_per_byte']:.4f}")
        elif self.data.changed_text:
            lines.append(f"Bits per byte    left out: {why_no_bits_per_byte(self.data.changed_text)}")
        if "corpus/unigram_entropy" in values:
            unigram, bigram = values["corpus/unigram_entropy"], values["corpus/bigram_entropy"]
            lines.append(f"Corpus entropy   {unigram:.4f} unigram, {bigram:.4f} bigram (nats/token)")
        for number, sample in enumerate(samples, 1):
            lines += ["", f"Generated text {number}:", *("  | " + line for line in sample.splitlines())]
        look = f"Look             tensorboard --logdir {shlex.quote(_short(self._log_folder()))}"
        suited = ["sampler=left_to_right", "sampler.steps=null"] * self.exact
        evaluate = typed("evaluate", typed_path("ckpt", Path(_short(self.folder))), *suited, *typed_again("cache_dir"))
        lines += ["", f"Run folder       {_short(self.folder)}"]
        lines += [look, f"                 {DASHBOARD}"] if board else []
        lines += [f"Evaluate         {evaluate}"]
        return "\n".join(lines)

    def _log_folder(self) -> Path:
        """Where TensorBoard finds this run, with those beside it if it lies where runs usually do."""
        runs = RUNS.resolve()
        return runs if self.folder.is_relative_to(runs) else self.folder


def _short(folder: Path) -> str:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
