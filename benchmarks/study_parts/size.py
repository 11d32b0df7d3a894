"""How large a study is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SUDOKU = ("experiment=sudoku", "model.depth=3", "trainer.max_steps=900", "data.validation=5000")
ADAMW = ("optimizer=adamw", "optimizer.lr=1.5e-3")  # as docs/study.md was measured
LARGER = ("model.hidden_size=512", "model.depth=8", "model.heads=8", "optimizer=adamw", "optimizer.lr=5e-4")
TEN_STEPS = ("trainer.max_steps=10", "lr_schedule.warmup_steps=2")
# Of eight given brackets there are prompts enough; a word is twelve more.
DYCK = ("experiment=dyck", "data.given=8", "trainer.max_steps=1000", "data.validation=5000")

DECIDED_BY: Mapping[str, Sequence[str]] = {
    "profile": ("budgets", "sequences"),
    "likelihood": ("budgets", "sequences", "walked", "profile", "knots"),
    "adaptive": ("walked", "gammas", "thresholds"),
    "advice": ("profile", "knots", "advised", "task_budgets", "racers", "race", "task_race", "walked", "problems"),
    "frontier": ("frontier", "temperatures", "texts"),
    "accuracy": ("problems", "task_budgets", "profile", "knots"),
}
"""The parts of a study, and the attributes of ``Size`` that their results depend on."""


@dataclass(frozen=True)
class Size:
    """Models, step budgets, and how much is measured. The defaults are for two CPU cores.

    Attributes:
        text: what is typed behind ``train.py`` for both corpora.
        twin: the same for their autoregressive scorers; empty for 5-gram models, which are fitted on the spot.
        tasks: the same for each task, by its name.
        trainer: the same for all.
        budgets: step budgets K of texts.
        sequences: validation sequences for orders that are known beforehand, whose table serves all schedules and
            budgets.
        walked: of these, for orders that look at predictions, which take a walk for each schedule and budget.
        profile: validation sequences that profiles are measured on.
        knots: of path profiles.
        advised: step budgets of the advice on texts.
        racers, race: proposals in its race, and sequences for the race and again for its confirmation.
        frontier: step budgets of the generative frontiers.
        temperatures, texts: of their points.
        gammas: bounds of the entropy-bounded sampler, in nats.
        thresholds: probabilities of the threshold sampler.
        task_budgets: step budgets K of tasks.
        problems: per cell of a task.
        task_race: problems for the race of the advice on tasks, and again for its confirmation.
    """

    text: Sequence[str] = (
        "tokenizer.vocab_size=1024",
        "trainer.max_steps=1000",
        "optimizer=adamw",
        "optimizer.lr=1.5e-3",
    )
    twin: Sequence[str] = ()
    tasks: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"sudoku": SUDOKU, "dyck": DYCK})
    trainer: Sequence[str] = ("trainer.accelerator=cpu",)
    budgets: Sequence[int] = (4, 8, 16, 32, 64)
    sequences: int = 64
    walked: int = 32
    profile: int = 64
    knots: int = 17
    advised: Sequence[int] = (4, 8, 16)
    racers: int = 9
    race: int = 64
    frontier: Sequence[int] = (8, 32)
    temperatures: Sequence[float] = (0.6, 0.8, 1.0)
    texts: int = 64
    gammas: Sequence[float] = (8, 16, 32, 64, 128)
    thresholds: Sequence[float] = (0.05, 0.1, 0.3)
    task_budgets: Sequence[int] = (2, 4)
    problems: int = 200
    task_race: int = 200

    @property
    def span(self) -> int:
        """Validation sequences of text that are looked at: for likelihood, profiles, race and confirmation."""
        return self.sequences + self.profile + 2 * self.race

    def asked(self, part: str) -> dict[str, Any]:
        """What decides on a part's results, for its file; and which sequences are looked at follows from ``span``."""
        return {name: getattr(self, name) for name in (*DECIDED_BY[part], "span")}


CPU = Size()

GPU = Size(
    text=(*LARGER, "trainer.max_steps=20000"),
    twin=("model=ar", *LARGER, "trainer.max_steps=10000"),
    tasks={"sudoku": ("experiment=sudoku", "data.validation=5000"),
           "dyck": ("experiment=dyck", "data.given=8", "trainer.max_steps=5000", "data.validation=5000")},
    trainer=("trainer=gpu",),
    sequences=128, walked=128, profile=128, race=128, texts=256, problems=1000, task_race=400,
)  # fmt: skip

TINY = Size(
    text=("model=micro", "tokenizer=byte", *TEN_STEPS),
    tasks={"sudoku": ("data=sudoku_4x4", "model=micro", "model.length=33", *TEN_STEPS)},
    budgets=(2, 4), sequences=8, walked=4, profile=8, knots=5, advised=(2,), racers=6, race=10, frontier=(2,),
    temperatures=(0.5, 1.0), texts=4, gammas=(8, 64), thresholds=(0.5,), task_budgets=(2,), problems=8, task_race=10,
)  # fmt: skip
