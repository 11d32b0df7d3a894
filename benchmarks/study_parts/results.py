"""A study's folder: a part is a file, and what is there is not measured again."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_lightning.errors import UserError
from mdm_lightning.files import from_json, read_text, to_json, write_atomically


@dataclass(frozen=True)
class Results:
    """The files of one seed and one set of data.

    Args:
        folder: where they are.
    """

    folder: Path

    def part(self, name: str, asked: Mapping[str, Any], measure: Callable[[], Any]) -> None:
        """Measures a part that is not there yet.

        Args:
            name: of the part.
            asked: what decides on what is found.
            measure: finds it.

        Raises:
            UserError: it is there, and was made with other settings.
        """
        path, settings = self.folder / f"{name}.json", from_json(to_json(asked))
        if path.is_file():
            if from_json(read_text(path))["asked"] != settings:
                raise UserError(f"{path} was measured with other settings: choose another folder with --out")
            return
        started = time.perf_counter(), time.process_time()
        found = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json({"asked": settings, "found": found}, indent=None))
        took = f"{time.perf_counter() - started[0]:.0f}", f"{time.process_time() - started[1]:.0f}"
        # Beside the parts, which are equal in every run with a seed.
        with (self.folder / "seconds.csv").open("a") as file:
            file.write(",".join((name, *took)) + "\n")
        print(
            f"{self.folder.parent.name}, {self.folder.name}: {name}, {took[0]} s ({took[1]} s of processor)", flush=True
        )


def read(folder: Path) -> dict[str, Any]:
    """What was found, by part."""
    return {path.stem: from_json(read_text(path))["found"] for path in sorted(folder.glob("*.json"))}
