"""What a cell of a sweep costs beyond sampling, against one `evaluate.py` per cell.

    python benchmarks/sweep_cell.py

Trains a tiny sudoku model for ten steps (what it answers does not matter here), then measures 20 cells of 200 puzzles.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CELLS, PUZZLES, STEPS = 20, 200, 4
TINY = (
    "data=sudoku_4x4", "data.train=500", f"data.validation={PUZZLES}",
    "trainer.max_steps=10", "training.validate_every=10",
    "lr_schedule.warmup_steps=2", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
)  # fmt: skip


def run(script: str, *arguments: str) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def sampling_seconds(rows: list[dict]) -> float:
    rate = next(row["value"] for row in rows if row["metric"] == "tokens_per_second")
    return PUZZLES * 16 / rate


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("train.py", *TINY, f"run_dir={folder}/model")
        common = (f"ckpt={folder}/model", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
        betas = ",".join(str(0.2 + 0.1 * i) for i in range(CELLS // 2))
        axes = ("schedule.alpha=0.3,0.9", f"schedule.beta={betas}", f"sampler.steps={STEPS}", "sweep.baselines=[]")
        run("sweep.py", *common, *axes, f"sweep.limit={PUZZLES}", f"sweep.dir={folder}/sweep")
        paths = sorted((folder / "sweep/cells").glob("*.json"), key=lambda path: path.stat().st_mtime)
        written = [path.stat().st_mtime for path in paths]
        # From one cell's file to the next: all that a cell costs.
        per_cell = (written[-1] - written[0]) / (len(paths) - 1)
        sampling = sum(sampling_seconds(json.loads(path.read_text())["rows"]) for path in paths[1:]) / (len(paths) - 1)
        alone = run("evaluate.py", *common, "evaluation=task", f"sampler.steps={STEPS}", f"run_dir={folder}/alone")
    overhead = per_cell - sampling
    print(f"a cell of the sweep     {per_cell:7.3f} s, of it sampling {sampling:.3f} s, overhead {overhead:.3f} s")
    print(f"a process for each cell {alone:7.3f} s")
    print(f"ratio                   {alone / per_cell:7.1f}")


if __name__ == "__main__":
    main()
