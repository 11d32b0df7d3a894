"""Requeueing, against a stand-in for SLURM's scontrol."""

from pathlib import Path

import pytest

from mdm_lightning.commands.slurm import requeue


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which `scontrol` writes what it was asked to do."""
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "asked"


def test_outside_slurm_nothing_happens(asked):
    requeue()
    assert not asked.exists()


def test_a_job_puts_itself_back(asked, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    requeue()
    assert asked.read_text().split() == ["requeue", "42"]


def test_one_task_of_an_array(asked, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "42")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    requeue()
    assert asked.read_text().split() == ["requeue", "42_7"]


def test_an_interactive_job_is_left_alone(asked, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    requeue()
    assert not asked.exists()


def test_a_failing_scontrol_is_a_warning(asked, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    (asked.parent / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    requeue()
    assert "could not requeue" in caplog.text
