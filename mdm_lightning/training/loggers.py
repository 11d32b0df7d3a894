"""Loggers whose log, when a run goes on, is that of a run that was never stopped.

Each takes ``resume_step``: the optimizer step from which the run goes on (0: it begins; None: this is no training run).
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mdm_lightning.files import write_atomically

STEP = "step"


class CsvLog(Logger):
    """``csv/metrics.csv``: a row for each set of values, on disk at once, and a column for each name.

    Rows beyond the step from which a run goes on are dropped: they are logged again. So may be the validation at that
    step, which replaces what it logged before.

    Args:
        folder: of the run.
        resume_step: see above.
    """

    def __init__(self, folder: str, resume_step: int | None = None) -> None:
        super().__init__()
        self.folder = Path(folder) / "csv"
        self.resume_step = resume_step
        self._columns: list[str] | None = None  # of the file; None before it is opened

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        return self.folder / "metrics.csv"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {STEP: 0 if step is None else step, **{name: float(value) for name, value in metrics.items()}}
        if self._columns is None:
            last = -1 if self.resume_step is None else self.resume_step
            kept = [old for old in self._read() if int(old[STEP]) <= last]
            self._columns = list(dict.fromkeys(name for old in kept for name in old))
            self._rewrite(kept)
        new = [name for name in row if name not in self._columns]
        if new or (self.resume_step and step == self.resume_step):
            self._columns += new
            names = row.keys() - {STEP}
            before = [old for old in self._read() if old[STEP] != str(step) or not names & old.keys()]
            self._rewrite([*before, row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "hparams.yaml", yaml.safe_dump(dict(params), sort_keys=False))

    def _read(self) -> list[dict[str, str]]:
        """The rows that are there, but for one that a killed process has not finished."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        whole = [row for row in rows if None not in row.values() and str(row.get(STEP)).isdigit()]
        return [{name: value for name, value in row.items() if value != ""} for row in whole]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        assert self._columns is not None
        text = io.StringIO(newline="")
        if self._columns:
            writer = csv.DictWriter(text, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text.getvalue())


class WandbLog(WandbLogger):
    """Weights & Biases, with one run however often training is stopped and goes on.

    Its id is kept in the run folder, and which rows were sent: nothing is taken back there, so what a killed run has
    sent already is not sent a second time. (Offline, each part is in a folder of its own with the same id.)

    Args:
        save_dir: the run folder.
        resume_step: see above.
        options: of Lightning's logger.
    """

    def __init__(self, save_dir: str, resume_step: int | None = None, **options: Any) -> None:
        self.kept = Path(save_dir) / ".wandb_run"  # the id, then a line for each row
        self.resume_step = resume_step
        lines = self.kept.read_text().splitlines() if resume_step and self.kept.is_file() else []
        if resume_step is not None and options.get("id") is None and options.get("version") is None:
            options["id"] = lines[0] if lines else uuid4().hex[:8]
        super().__init__(save_dir=save_dir, **options)
        self._sent = set(lines[1:])
        self._begun = bool(lines)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = f"{step} {min(metrics, default='')}"
        if row in self._sent:
            return
        super().log_metrics(metrics, step)
        if self.resume_step is None:
            return
        if not self._begun:
            _keep(self.kept, str(self.version))
            self._begun = True
        with self.kept.open("a") as file:
            file.write(row + "\n")

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status != "success" and self._begun:
            self.experiment.finish(exit_code=1)  # a command that fails does not wait for what others do at its end


class MlflowLog(MLFlowLogger):
    """MLflow, with one run however often training is stopped and goes on: its id is kept in the run folder.

    Args:
        folder: the run folder.
        resume_step: see above.
        options: of Lightning's logger.
    """

    def __init__(self, folder: str, resume_step: int | None = None, **options: Any) -> None:
        self.kept = Path(folder) / ".mlflow_run"
        self.resume_step = resume_step
        if resume_step is not None and options.get("run_id") is None:
            options["run_id"] = _kept(self.kept) if resume_step else None
        super().__init__(**options)
        self._opened = False
        self._logged: dict[str, int] = {}  # last step by name, of what was logged before this process began

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._open()
        new = {name: value for name, value in metrics.items() if step is None or step > self._last(name)}
        super().log_metrics(new, step)

    def log_hyperparams(self, params: Any) -> None:
        """MLflow's parameters cannot change: those that a run goes on with are noted as tags."""
        self._open()
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in params.items() if name not in known})
        for name, value in params.items():
            if known.get(name, str(value)) != str(value):
                self.experiment.set_tag(self.run_id, name, value)

    def _open(self) -> None:
        if self._opened or self.run_id is None:
            return
        self._opened = True
        if self.resume_step is not None:
            _keep(self.kept, self.run_id)
            self.experiment.update_run(self.run_id, status="RUNNING")

    def _last(self, name: str) -> int:
        if not self.resume_step:
            return -1
        if name not in self._logged:
            history = self.experiment.get_metric_history(self.run_id, name)
            self._logged[name] = max((entry.step for entry in history), default=-1)
        return self._logged[name]


def _kept(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


@rank_zero_only
def _keep(path: Path, identity: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, identity + "\n")
