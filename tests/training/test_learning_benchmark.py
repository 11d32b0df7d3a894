"""`benchmarks/learning.py`: it goes on where it stopped, and what its table says of curves."""

import sys

import pytest

from tests.commands.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def test_trainings_that_are_there_stay_and_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    from learning import main

    from mdm_lightning.errors import UserError

    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").write_text(f"{i} green bottles hanging on the wall, " * 20)
    monkeypatch.setenv("MDM_CACHE", str(tmp_path / "cache"))
    asked = ["--out", str(tmp_path / "out"), "--seeds", "3", "--batch", "2", "--turn", "1", "--every", "2"]
    asked += ["--validation", "4", "--held-out", "4", "--options", "model=micro", "data=files", "tokenizer=character"]
    asked += [f"data.path={tmp_path / 'text'}", "data.validation_fraction=0.3"]

    def run(steps: int, *recipes: str) -> str:
        monkeypatch.setattr(sys, "argv", ["learning.py", *asked, "--steps", str(steps), "--recipes", *recipes])
        main()
        return capsys.readouterr().out

    run(4, "mdlm", "default")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 2
    shown = run(4, "mdlm", "default", "full head")
    assert {path: path.read_bytes() for path in before} == before
    # The whole head is the same loss, so the same training.
    row = next(line for line in shown.splitlines() if line.startswith("| full head |")).split(" | ")
    assert float(row[3]) == pytest.approx(0, abs=1e-3)
    assert "| mdlm | 1 |" in shown
    with pytest.raises(UserError, match="other settings"):
        run(6, "default")


def test_the_way_to_a_loss():
    from learning import reached, table

    curve = [(0, 0.0, 5.0), (10, 1.0, 3.0), (20, 4.0, 1.0)]
    assert reached(curve, 2.0) == (15, 2.5)
    assert reached(curve, 0.5) is None
    mdlm = {"recipe": "mdlm", "seed": 0, "curve": [(0, 0.0, 5.0), (30, 5.0, 2.0)], "held_out": 2.5}
    default = {"recipe": "default", "seed": 0, "curve": curve, "held_out": 1.25}
    assert "| default | 1 | 1.2500 |  | 1 of 1 | 2.00x | 2.00x |" in table([mdlm, default])
    assert "| mdlm | 1 | 2.5000 | +1.2500 | 1 of 1 | 1.00x | 1.00x |" in table([mdlm, default])
