"""From command lines to multiruns: which cells there are, and under which options."""

import itertools

import pytest
from omegaconf import OmegaConf

from mdm_lightning.commands.options.command_line import parse
from mdm_lightning.commands.sweep.plan import SweepPlan, combinations
from mdm_lightning.errors import UserError

SETTINGS = {"alpha": [0.3, 0.9], "beta": [0.5], "steps": [8, 16], "baselines": ["linear", "sine"]}
CONFIGURED = [
    "schedule.alpha=0.3 schedule.beta=0.5", "schedule.alpha=0.9 schedule.beta=0.5", "schedule=linear", "schedule=sine",
]  # fmt: skip
BUDGETS = ["sampler.steps=8", "sampler.steps=16"]


def plan(*arguments: str, **settings: object) -> SweepPlan:
    parsed = parse(arguments)
    base = [override for override in parsed if not override.is_sweep_override()]
    axes = [override for override in parsed if override.is_sweep_override()]
    return SweepPlan(base, axes, OmegaConf.create(SETTINGS | settings))


def cells(runs: list[list[str]]) -> set[frozenset[str]]:
    """The options of every cell of the multiruns; none is there twice."""
    found = []
    for options in (options for run in runs for options in combinations(run)):
        assert len({option.split("=")[0] for option in options}) == len(options), f"twice in {options}"
        found.append(frozenset(options))
    assert len(set(found)) == len(found)
    return set(found)


def product(*axes: list[str]) -> set[frozenset[str]]:
    """All combinations; an entry may hold several options."""
    return {frozenset(" ".join(choice).split()) for choice in itertools.product(*axes)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Nothing said: the configuration's grid and baselines.
        ([], product(CONFIGURED, BUDGETS)),
        (["ckpt=x", "seed=3"], product(["ckpt=x seed=3"], CONFIGURED, BUDGETS)),
        # A schedule's parameters: theirs instead, beside the baselines.
        (
            ["schedule.alpha=1,2", "sampler.steps=4"],
            product(["schedule.alpha=1", "schedule.alpha=2", *CONFIGURED[2:]], ["sampler.steps=4"]),
        ),
        # Another family and one of its parameters.
        (
            ["schedule=polynomial", "schedule.exponent=2,3"],
            product(["schedule=polynomial schedule.exponent=2", "schedule=polynomial schedule.exponent=3",
                     *CONFIGURED[2:]], BUDGETS),
        ),
        # Named schedules are all there is.
        (["schedule=cosine,beta"], product(["schedule=cosine", "schedule=beta"], BUDGETS)),
        # A single schedule, for which the budgets are swept, beside the baselines.
        (["schedule=cosine"], product(["schedule=cosine", *CONFIGURED[2:]], BUDGETS)),
        # Any other axis multiplies everything.
        (
            ["order=random,confidence", "sampler.steps=2,4"],
            product(CONFIGURED, ["order=random", "order=confidence"], ["sampler.steps=2", "sampler.steps=4"]),
        ),
        (["sampler.steps=range(1,3)"], product(CONFIGURED, ["sampler.steps=1", "sampler.steps=2"])),
    ],
)  # fmt: skip
def test_the_grid(arguments, expected):
    asked = plan(*arguments)
    assert cells(asked.grid()) == expected
    assert asked.cells(asked.grid()) == len(expected)


def test_without_baselines():
    assert cells(plan(baselines=[]).grid()) == product(CONFIGURED[:2], BUDGETS)


@pytest.mark.parametrize(
    "axis", ["trainer.devices=1,2", "ckpt=a,b", "data=text8,lm1b", "sweep.limit=1,2", "hydra.job.name=a,b",
             "hydra/launcher=basic,joblib", "logger=csv,none", "run_dir=a,b", "trainer=cpu,ddp", "debug=true,false"],
)  # fmt: skip
def test_what_all_cells_share_cannot_be_swept(axis):
    with pytest.raises(UserError, match=f"{axis.split('=')[0]} cannot be swept"):
        plan(axis)


def test_a_search_chooses_its_own_cells():
    """The search gets what it searches and nothing else; the baselines are run without it."""
    asked = plan("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "schedule.alpha=interval(0.1,2)", "seed=3")
    search, baselines = asked.grid()
    assert search == ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "seed=3", "schedule.alpha=interval(0.1,2)"]
    assert cells([baselines]) == product(["seed=3"], CONFIGURED[2:])
    assert asked.cells(asked.grid()) is None


REFINED = "sweep.stage=refined evaluation.first=100"


def test_the_shortlist_is_measured_again_per_budget():
    runs = plan("ckpt=x").refinement({8: [(0.9, 0.3), (1.0, 0.2)], 16: [(0.5, 0.5)]}, 100, None)
    fresh = f"ckpt=x {REFINED} evaluation.sequences=null"
    first, second, *hand_made = "schedule={alpha:0.9,beta:0.3}", "schedule={alpha:1.0,beta:0.2}", *CONFIGURED[2:]
    assert cells(runs) == (
        product([fresh], ["sampler.steps=8"], [first, second, *hand_made])
        | product([fresh], ["sampler.steps=16"], ["schedule={alpha:0.5,beta:0.5}", *hand_made])
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=3", "sampler.steps=8", "order=random,margin"],
        ["seed=3", "sampler.steps=8,16", "order=random,margin", "schedule.alpha=0.1,0.9", "schedule.beta=0.3"],
        ["seed=3", "order=random,margin", "schedule=beta", "schedule.alpha=0.1,0.9"],
        ["seed=3", "order=random,margin", "hydra/sweeper=optuna", "schedule.alpha=interval(0.1,2)"],
    ],
)
def test_other_axes_are_kept_and_the_grids_own_replaced(arguments):
    runs = plan(*arguments).refinement({8: [(0.9, 0.3)]}, 100, 50)
    assert cells(runs) == product(
        [f"seed=3 {REFINED} evaluation.sequences=50 sampler.steps=8"],
        ["order=random", "order=margin"],
        ["schedule={alpha:0.9,beta:0.3}", *CONFIGURED[2:]],
    )


def test_budgets_without_a_number_and_without_a_shortlist():
    runs = plan().refinement({None: []}, 100, None)
    assert cells(runs) == product([f"{REFINED} evaluation.sequences=null sampler.steps=null"], CONFIGURED[2:])


def test_names_of_cells_leave_out_what_all_share():
    """The axes only: folders then have short names that tell the cells apart."""
    override = plan("ckpt=x", "seed=3", "order=random,margin", "+extra=1").exclude_keys()
    (parsed,) = parse([override])
    excluded = parsed.value()
    assert {"ckpt", "seed", "extra", "sweep.dir", "sweep.stage", "evaluation.first"} <= set(excluded)
    assert not {"order", "schedule.alpha", "schedule", "sampler.steps"} & set(excluded)
