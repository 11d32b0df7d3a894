"""The scripts of ``examples/`` print what the documentation says they print."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_output_is_that_of_the_page(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    assert f"(../examples/{script.name})" in page
    assert f"```\n{capsys.readouterr().out}```" in page


def test_own_schedule_is_a_schedule() -> None:
    schedule = runpy.run_path(str(ROOT / "examples/own_schedule.py"))["SmoothStep"]()
    t = torch.linspace(0, 1, 101, dtype=torch.float64).requires_grad_()
    alpha = schedule.alpha_t(t)
    torch.testing.assert_close(alpha + schedule.masked_t(t), torch.ones_like(alpha))
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.dalpha_t(t), slope)
    assert alpha[0] == 0
    assert alpha[-1] == 1
