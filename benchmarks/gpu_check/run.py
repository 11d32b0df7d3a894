"""Runs the parts, each in a process with a time limit, and collects their rows."""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

# Here, so that the processes that are forked need not import them again.
import mdm_lightning.commands.evaluate
import mdm_lightning.commands.sweep.sweep
import mdm_lightning.commands.train  # noqa: F401
from gpu_check import ancestral, ceilings, llada8b, precision, processes, training
from gpu_check.report import Report, Row, read_rows, table, write_json

FORK = multiprocessing.get_context("fork")
POLL = 0.25  # seconds between looks at what a part has written
RESERVE = 8.0  # seconds kept for the table and for parts that take time to die


@dataclass(frozen=True)
class Part:
    """A part of the check. What one leaves of its time goes to those after it.

    Args:
        weight: its share of the time, relative to the others.
    """

    name: str
    run: Callable[[Report, torch.device, bool], None]
    weight: float


PARTS = (
    Part("ceilings", ceilings.run, 10),
    Part("training step", training.run, 30),
    Part("compiled step", training.compiled, 90),
    Part("largest batch", training.largest_batch, 25),
    Part("precision", precision.run, 20),
    Part("ancestral sampling", ancestral.run, 25),
    Part("LLaDA-8B", llada8b.run, 60),
    Part("processes", processes.run, 50),
)


@dataclass
class Check:
    """Runs parts one after the other and keeps the JSON file up to date.

    This process never touches the device: one that has cannot fork another one that does.
    """

    parts: Sequence[Part]
    seconds: float
    tiny: bool
    json: Path | None = None
    settings: dict[str, object] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def run(self) -> bool:
        """Whether every part came to its end."""
        end = time.monotonic() + self.seconds
        whole = True
        with tempfile.TemporaryDirectory() as folder:
            for number, part in enumerate(self.parts):
                left = max(1.0, end - time.monotonic())
                limit = left * part.weight / sum(later.weight for later in self.parts[number:])
                whole &= self._run_part(part, limit, Path(folder) / f"{number}.jsonl")
        return whole

    def _run_part(self, part: Part, limit: float, path: Path) -> bool:
        done, started = list(self.rows), time.monotonic()
        process = FORK.Process(target=_child, args=(part, path, self.tiny), daemon=False)
        process.start()
        try:
            while process.is_alive() and time.monotonic() - started < limit:
                process.join(POLL)
                self._collect([*done, *read_rows(path)])
            late = process.is_alive()
        finally:
            _kill(process)
            self._collect([*done, *read_rows(path)])
        if late:
            self._collect([*self.rows, Row(part.name, "stopped", note=f"not finished after {limit:.0f} s")])
        elif process.exitcode:
            reason = "failed" if process.exitcode > 0 else signal.Signals(-process.exitcode).name
            if not (self.rows and self.rows[-1].part == part.name and self.rows[-1].what == "failed"):
                self._collect([*self.rows, Row(part.name, "failed", note=f"the process died: {reason}")])
        return not late and process.exitcode == 0

    def _collect(self, rows: list[Row]) -> None:
        if rows != self.rows:
            self.rows = rows
            if self.json is not None:
                write_json(self.json, self.settings, rows)


def _child(part: Part, path: Path, tiny: bool) -> None:
    os.setsid()  # so that what it starts can be killed with it
    report = Report(part.name, path)
    device = torch.device("cpu" if tiny else "cuda")
    if tiny:
        torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        part.run(report, device, tiny)
    except Exception as error:
        traceback.print_exc()
        line = (str(error).strip().splitlines() or [""])[0][:200]
        report.row("failed", f"{type(error).__name__}: {line}")
        sys.exit(1)
    report.row("whole part", s=time.perf_counter() - started)


def _kill(process: BaseProcess) -> None:
    """Ends a part and all that it has started; one that not even SIGKILL ends is left behind."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join(5)


def _has_cuda() -> bool:
    """Asked in a process of its own, for the answer touches the device."""
    process = FORK.Process(target=lambda: sys.exit(not torch.cuda.is_available()))
    process.start()
    process.join(60)
    return process.exitcode == 0


def about() -> dict[str, object]:
    """The card and its driver, as nvidia-smi names them, and the versions of torch and CUDA."""
    card: dict[str, object] = {}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
            name, driver = answer.splitlines()[0].split(", ")
            card = {"card": name, "driver": driver}
    return {**card, "torch": torch.__version__, "CUDA": torch.version.cuda, "Python": sys.version.split()[0]}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu.py", description="What has to be measured on a CUDA device: see benchmarks/README.md."
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every row here as soon as it is there")
    parser.add_argument("--minutes", type=float, default=4.0, help="for all parts together, imports included")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU: figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts alone")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if not options.tiny and not _has_cuda():
        sys.exit("error: no CUDA device was found; --tiny tries everything on a CPU")
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    settings = about() | ({"sizes": "tiny, on a CPU: the figures mean nothing"} if options.tiny else {})
    left = 60 * options.minutes - RESERVE - _seconds_since_start()
    check = Check(parts, left, options.tiny, options.json, settings)
    whole = False
    try:
        whole = check.run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print("\n" + table(settings, check.rows), flush=True)
    os._exit(0 if whole else 1)  # not waiting for a process that could not be killed


def _seconds_since_start() -> float:
    """Since this process was started: what the imports took is part of the time that was given."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 15.0
