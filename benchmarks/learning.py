"""How fast recipes learn: NLL of text that was not trained on, against seconds and tokens.

    python benchmarks/learning.py --out learning --seeds 0 1 2
    python benchmarks/learning.py --out learning --recipes default adamw --options model=tiny data=tinystories

A recipe is what would be typed behind ``train.py``. ``default`` types nothing; ``mdlm`` is MDLM's recipe (Sahoo et al.,
2024; without dropout) with its learning rate, written plainly, with logits at every position; the others change one
thing of ``default``. All have the same network, initial weights, sequences and warm-up. The recipes of a seed learn in
turns of a few steps in one process with one thread, so that a busy machine is fair to all; seconds are those of the
processor on a CPU.

Curves are of the first validation sequences, masked the same way each time, and say when a recipe is as good as
``mdlm`` at its end; choices are made by them. The last validation sequences are held out: they are looked at once, at
the end of a training, and are what the table reports. Each training is a file in the folder ``--out``; what is there
already is not trained again. The table at the end is of all files.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.optim.lr_scheduler import LambdaLR
from train_step import Loss, full_head, masked_rows

from mdm_lightning.data.source import PreparedData, Sequences
from mdm_lightning.diffusion.masking import CountMasking, MaskedBatch, seeded_generator
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.files import from_json, read_text, to_json, write_atomically
from mdm_lightning.tables import markdown_table
from mdm_lightning.training.ema import ExponentialMovingAverage

CONF = Path(__file__).resolve().parents[1] / "conf"
VALIDATION_BATCH = 64
INDICES, MASKS, VALIDATION, HELD_OUT = range(4)  # streams of random numbers


@dataclass(frozen=True)
class Recipe:
    """What is typed behind ``train.py``, and how the loss is computed."""

    options: tuple[str, ...] = ()
    loss: Loss = masked_rows


LINEAR_MASKS = "schedule@training.schedule=linear"
ADAMW = ("optimizer=adamw", "optimizer.lr=1.5e-3")
MDLM = (*ADAMW, LINEAR_MASKS, "lr_schedule=constant", "optimizer.betas=[0.9,0.999]", "training.ema=0.9999")
MDLM += ("trainer.gradient_clip_val=1.0",)
BELL = (LINEAR_MASKS, "timesteps@training.times=bell")
RECIPES = {
    "mdlm": Recipe((*MDLM, "optimizer.lr=3e-4"), full_head),
    "default": Recipe(),
    "mdlm, our learning rate": Recipe(MDLM, full_head),
    "full head": Recipe(loss=full_head),
    "linear masks": Recipe((LINEAR_MASKS,)),
    "linear masks, uniform times": Recipe((LINEAR_MASKS, "timesteps@training.times=uniform")),
    "masks by count": Recipe(("masking@training.masking=count",)),
    "bell": Recipe(BELL),
    "bell, no weights": Recipe((*BELL, "training.times.unbiased=false")),
    "adamw": Recipe(ADAMW),
    "muon": Recipe(("optimizer=muon",)),
    "tied": Recipe(("model.tie_weights=true",)),
}


def configure(options: argparse.Namespace, recipe: Recipe) -> DictConfig:
    """The configuration of ``train.py`` with these options."""
    common = [*options.options, f"trainer.max_steps={options.steps}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*common, *recipe.options, f"lr_schedule.warmup_steps={options.steps // 20}"])


class Learner:
    """One recipe with one seed, a few steps at a time."""

    def __init__(self, recipe: Recipe, seed: int, options: argparse.Namespace, data: PreparedData) -> None:
        config = configure(options, recipe)
        torch.manual_seed(seed)
        self.loss, self.seed, self.data, self.batch = recipe.loss, seed, data, options.batch
        self.device = torch.device(options.device)
        self.model = instantiate(config.model, vocab_size=data.tokenizer.vocab_size).to(self.device)
        self.optimizer = instantiate(config.optimizer)(self.model)
        self.schedule = LambdaLR(self.optimizer, instantiate(config.lr_schedule))
        self.masking = instantiate(config.training.masking)
        self.limit = config.trainer.get("gradient_clip_val")
        self.ema = ExponentialMovingAverage(config.training.ema)
        self.ema.average = [p.detach().clone() for p in self.model.parameters()]
        self.seconds = 0.0
        self.steps = 0
        self.curve: list[tuple[int, float, float]] = []
        """Steps, seconds, nats per token."""

    def train(self, steps: int) -> None:
        started = self._clock()
        for step in range(self.steps, self.steps + steps):
            self._step(step)
        self.seconds += self._clock() - started
        self.steps += steps

    def _step(self, step: int) -> None:
        generator = seeded_generator(self.seed, INDICES, step)
        chosen = torch.randint(len(self.data.train), (self.batch,), generator=generator).tolist()
        batch = self.data.train.__getitems__(chosen)
        masked = self._mask(batch["tokens"], batch["maskable"], seeded_generator(self.seed, MASKS, step))
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model, masked).backward()
        if self.limit:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(self.model)

    def _mask(self, tokens: torch.Tensor, maskable: torch.Tensor, generator: torch.Generator) -> MaskedBatch:
        return self.masking(tokens, maskable, self.data.tokenizer.mask_id, generator).to(self.device)

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @torch.no_grad()
    def nll(self, sequences: Sequences, indices: Iterable[int], stream: int) -> float:
        """Nats per token with the averaged weights, by masks that are the same for all recipes and seeds."""
        estimator, indices = CountMasking(StratifiedTimes()), list(indices)
        total, tokens = 0.0, 0
        with self.ema.averaged(self.model):
            for start in range(0, len(indices), VALIDATION_BATCH):
                batch = sequences.__getitems__(indices[start : start + VALIDATION_BATCH])
                generator = seeded_generator(stream, start)
                mask_id = self.data.tokenizer.mask_id
                masked = estimator(batch["tokens"], batch["maskable"], mask_id, generator).to(self.device)
                total += float(nelbo(self.model, masked).per_sequence.double().sum())
                tokens += int(masked.lengths.sum())
        return total / tokens

    def validate(self, sequences: int) -> None:
        self.curve.append((self.steps, self.seconds, self.nll(self.data.validation, range(sequences), VALIDATION)))

    def held_out(self, sequences: int) -> float:
        last = len(self.data.validation)
        return self.nll(self.data.validation, range(last - sequences, last), HELD_OUT)


def train_seed(seed: int, names: Sequence[str], options: argparse.Namespace, data: PreparedData) -> None:
    """Trains the recipes that have no file yet, in turns."""
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "seeds", "recipes")}
    paths = {name: options.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}.json" for name in names}
    for path in paths.values():
        if path.is_file() and from_json(read_text(path))["asked"] != asked:
            raise UserError(f"{path} was trained with other settings: choose another folder with --out")
    learners = {name: Learner(RECIPES[name], seed, options, data) for name, path in paths.items() if not path.is_file()}
    for learner in learners.values():
        learner.validate(options.validation)
    while learners and next(iter(learners.values())).steps < options.steps:
        for learner in learners.values():
            learner.train(min(options.turn, options.steps - learner.steps))
            if learner.steps % options.every == 0 or learner.steps == options.steps:
                learner.validate(options.validation)
    for name, learner in learners.items():
        record = {"recipe": name, "options": RECIPES[name].options, "seed": seed, "asked": asked}
        record |= {"curve": learner.curve, "held_out": learner.held_out(options.held_out)}
        record |= {"tokens_per_step": options.batch * data.length}
        write_atomically(paths[name], to_json(record))
        print(f"{name}, seed {seed}: {record['held_out']:.4f} nats per token, {learner.seconds:.0f} s", flush=True)


def reached(curve: Sequence[Sequence[float]], target: float) -> tuple[float, float] | None:
    """Steps and seconds at which a curve first falls to a loss, by linear interpolation; None if it does not."""
    for before, after in pairwise(curve):
        if after[2] <= target < before[2]:
            share = (before[2] - target) / (before[2] - after[2])
            return before[0] + share * (after[0] - before[0]), before[1] + share * (after[1] - before[1])
    return None


def table(records: Sequence[dict[str, Any]]) -> str:
    """A row for each recipe: the held-out loss, paired with that of ``default``, and the way to ``mdlm``'s loss."""
    by_recipe: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in RECIPES}
    for record in records:
        by_recipe[record["recipe"]][record["seed"]] = record
    rows = []
    for name, runs in by_recipe.items():
        if not runs:
            continue
        losses = [run["held_out"] for run in runs.values()]
        pairs = {seed: by_recipe["default"][seed] for seed in runs if seed in by_recipe["default"]}
        differences = [runs[seed]["held_out"] - pair["held_out"] for seed, pair in pairs.items()]
        speeds = [_speed(run, by_recipe["mdlm"].get(seed)) for seed, run in runs.items()]
        shown = [_mean([speed[i] for speed in speeds if speed], ".2f", "x") for i in (0, 1)]
        got = f"{sum(speed is not None for speed in speeds)} of {len(runs)}"
        pair = "" if name == "default" else _mean(differences, "+.4f")
        rows.append([name, str(len(runs)), _mean(losses, ".4f"), pair, got, *shown])
    header = [
        "recipe",
        "seeds",
        "held out, nats/token",
        "less default",
        "as good as mdlm",
        "faster by tokens",
        "by seconds",
    ]
    return markdown_table(header, rows)


def _speed(run: dict[str, Any], mdlm: dict[str, Any] | None) -> tuple[float, float] | None:
    """How many times fewer tokens and seconds a training needed for the last validation loss of ``mdlm``."""
    if mdlm is None:
        return None
    steps, seconds, target = mdlm["curve"][-1]
    needed = reached(run["curve"], target)
    return None if needed is None else (steps / needed[0], seconds / needed[1])


def _mean(values: Sequence[float], form: str, unit: str = "") -> str:
    if not values:
        return "-"
    error = standard_error(list(values))
    return f"{np.mean(values):{form}}{unit}" + ("" if error is None else f" ± {error:{form.lstrip('+')}}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", choices=RECIPES, nargs="+", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--options", nargs="*", default=[], help="of train.py, for all recipes: the model, the data")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--turn", type=int, default=10, help="steps of a recipe before the next one's turn")
    parser.add_argument("--every", type=int, default=50, help="steps between validations, a multiple of --turn")
    parser.add_argument("--validation", type=int, default=256, help="sequences of the curves")
    parser.add_argument("--held-out", type=int, default=1024, help="sequences for the end")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    config = configure(options, Recipe())
    data = instantiate(config.data).prepare(instantiate(config.tokenizer), Path(config.cache_dir))
    if len(data.validation) < options.validation + options.held_out:
        raise UserError(f"the validation text has {len(data.validation)} sequences: lower --validation and --held-out")
    for seed in options.seeds:
        train_seed(seed, options.recipes, options, data)
    records = [from_json(read_text(path)) for path in sorted(options.out.glob("*.json"))]
    print(f"\n{table(records)}")


if __name__ == "__main__":
    main()
