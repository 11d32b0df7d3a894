"""What a run has logged: its scalars by name, from whichever files it keeps."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdm_lightning.training.loggers import STEP

CSV = "csv/metrics.csv"

Curve = Mapping[int, float]
"""Values by optimizer step."""


def logged_curves(run: Path) -> dict[str, Curve]:
    """The scalars in a run folder by name; none if its loggers keep their log elsewhere.

    A step that was logged twice, as by a run that was stopped and went on, has its last value.
    """
    curves: dict[str, dict[int, float]] = {}
    if any(run.glob("events.out.tfevents.*")):
        logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells which files it reads
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            curves[name] = {event.step: event.value for event in events.Scalars(name)}
    elif (run / CSV).is_file():
        with (run / CSV).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name != STEP and value and str(row.get(STEP)).isdigit():
                        curves.setdefault(name, {})[int(row[STEP])] = float(value)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}
