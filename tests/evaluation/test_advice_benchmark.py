"""`benchmarks/advice.py`: its grid, and that cells which are there are not measured again."""

import sys

import pytest

from mdm_lightning.files import to_json
from tests.commands.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@pytest.mark.parametrize(("steps", "length"), [(2, 5), (3, 10), (8, 15)])
def test_the_grid_has_no_counts_twice(steps, length):
    from advice import SETTINGS
    from advice_cell import grid

    sampler = SETTINGS["confidence"]
    every, few = (grid(sampler, steps, length, most) for most in (1000, 6))
    passes = [tuple(m for m in one.counts or () if m) for one in every]
    assert len(set(passes)) == len(passes) > 3
    assert {sum(counts) for counts in passes} == {length}
    assert len(few) == min(6, len(every))
    assert few[0] == every[0]
    assert few[0].counts == tuple(sampler.count.counts(sampler.schedule, steps, length))


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch, capsys):
    """Nothing is loaded: there is no such run."""
    from advice import main

    for steps in (2, 4):
        said = {"spearman": 0.5 if steps == 2 else None, "choice": "Linear", "regret": 0.125}
        cell = {
            "run": "gone", "setting": "entropy", "steps": steps, "grid": [["Linear", [1, 1], 0.5]],
            "predictors": {"a": said}, "linear": 0.25, "best": 0.5, "advice": 0.375, "gain": 0.125, "gain_stderr": 0.01,
            "p": 0.03, "regret": 0.125, "regret_stderr": 0.02, "check_passes": 10, "grid_passes": 1000,
            "profile_passes": 100,
        }  # fmt: skip
        (tmp_path / f"gone-entropy-{steps}.json").write_text(to_json(cell))
    asked = ["/nowhere/gone", "--out", str(tmp_path), "--settings", "entropy", "--steps", "2", "4"]
    monkeypatch.setattr(sys, "argv", ["advice.py", *asked])
    main()
    shown = capsys.readouterr().out
    assert (
        "| gone | entropy | 2 | 0.250 | 0.500 | 0.375 | +0.125 ± 0.010 | 0.03 | +0.125 ± 0.020 | 10 | 1,000 |" in shown
    )
    assert "| gone | entropy | a | 0.500 | +0.125 | +0.125 |" in shown
    assert "120 of 2,000" in shown
