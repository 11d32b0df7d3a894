"""`benchmarks/gpu.py`: parts that hang, fail or die cost their own rows only; and all of them on a CPU, tiny."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.commands.conftest import REPOSITORY, variables


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def hang(report, device, tiny) -> None:
    report.row("before", figure=1)
    time.sleep(3600)


def fail(report, device, tiny) -> None:
    raise ValueError("no such thing\nand more")


def die(report, device, tiny) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(report, device, tiny) -> None:
    report.row("worked", "a note", tokens_per_s=1234.5)


def test_a_part_that_hangs_fails_or_dies_ends_nothing_else(tmp_path):
    from gpu_check.run import Check, Part

    # One that hangs is stopped after a second; the last has a minute.
    parts = [Part("hangs", hang, 1), Part("fails", fail, 30), Part("dies", die, 30), Part("works", work, 60)]
    check = Check(parts, 120, tiny=True, json=tmp_path / "out.json", settings={"card": "none"})
    assert not check.run()
    said = [(row.part, row.what) for row in check.rows]
    assert said == [
        ("hangs", "before"), ("hangs", "stopped"), ("fails", "failed"), ("dies", "failed"), ("works", "worked"),
        ("works", "whole part"),
    ]  # fmt: skip
    assert check.rows[2].note == "ValueError: no such thing"
    assert "SIGKILL" in check.rows[3].note
    assert check.rows[4].figures == {"tokens/s": 1234.5}
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["what"] for row in written["rows"]] == [what for _, what in said]


def test_the_largest_number_that_fits_is_found_to_within_an_eighth():
    from gpu_check.training import largest

    for most in range(200):
        for start in (1, 8, 32):
            found = largest(lambda n, most=most: n <= most, start, 128)
            assert found <= most
            assert min(most, 128) - found <= max(1, found // 8) - (found == 0)


@pytest.mark.slow
def test_every_part_on_a_cpu(tmp_path, cache):
    """As it is typed, but for a time limit that suits any machine."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), "--tiny", "--json", str(out), "--minutes", "60"]
    done = subprocess.run(command, cwd=tmp_path, env=variables(cache), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["rows"]
    finished = [row["part"] for row in rows if row["what"] == "whole part"]
    assert len(finished) == 8
    assert set(finished) == {row["part"] for row in rows}
    figures = [(name, value) for row in rows for name, value in row["figures"].items()]
    assert {value for name, value in figures if name == "share of equal tokens"} == {1.0}
    assert {value for name, value in figures if name == "cells"} == {6.0}
    differences = [value for name, value in figures if name == "difference from the plain run"]
    assert differences == pytest.approx([0, 0, 0], abs=1e-5)
    assert done.stdout.strip().splitlines()[-1].startswith("| processes | whole part |")


def test_without_a_gpu_it_says_so(tmp_path, cache):
    command = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py")]
    environment = variables(cache) | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: no CUDA device was found; --tiny tries everything on a CPU"
