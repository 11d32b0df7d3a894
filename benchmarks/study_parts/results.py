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
        asked: what decides on their contents; files that were made with something else are refused.
    """

    folder: Path
    asked: Mapping[str, Any]

    def part(self, name: str, measure: Callable[[], Any]) -> None:
        """Measures a part that is not there yet.

        Raises:
            UserError: it is there, and was made with other settings.
        """
        path, asked = self.folder / f"{name}.json", from_json(to_json(self.asked))
        if path.is_file():
            if from_json(read_text(path))["asked"] != asked:
                raise UserError(f"{path} was measured with other settings: choose another folder with --out")
            return
        started = time.perf_counter()
        found = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json({"asked": asked, "found": found}, indent=None))
        self._took(name, time.perf_counter() - started)

    def _took(self, name: str, seconds: float) -> None:
        """Beside the parts, which are equal in every run with a seed."""
        with (self.folder / "seconds.csv").open("a") as file:
            file.write(f"{name},{seconds:.0f}\n")
        print(f"{self.folder.parent.name}, {self.folder.name}: {name}, {seconds:.0f} s", flush=True)


def read(folder: Path) -> dict[str, Any]:
    """What was found, by part."""
    return {path.stem: from_json(read_text(path))["found"] for path in sorted(folder.glob("*.json"))}
