"""A trained model, a corpus and damaged files, which all bad inputs share."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bad_inputs.shell import Order, Outcome, Shell
from tests.commands.conftest import TINY, variables

MEASURING = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "logger=none")


@dataclass
class Workplace:
    """Where commands run: each in a new folder, with a cache that stays."""

    shell: Shell
    root: Path
    number: int = 0

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def __call__(self, script: str, *typed: str, **options: object) -> tuple[Outcome, Path]:
        """The outcome of a command, and the folder that it ran in.

        Args:
            script: train, evaluate or sweep.
            typed: with {run} and {f} for folders.
            options: of the Order; and ``variables``, which None takes out.
        """
        self.number += 1
        folder = self.root / "commands" / str(self.number)
        folder.mkdir(parents=True)
        given = [*TINY, f"data.path={self.root / 'corpus'}"] if script == "train" else [*MEASURING, f"ckpt={self.run}"]
        if any(argument.startswith("data=") for argument in typed):
            given = [argument for argument in given if not argument.startswith("data")]
        places = {"{run}": self.run, "{f}": self.files, "{root}": self.root}
        merged = {}
        for argument in (*given, *typed):
            for word, place in places.items():
                argument = argument.replace(word, str(place))
            merged[argument.split("=")[0].lstrip("+~")] = argument
        changes: dict[str, str | None] = options.pop("variables", {})  # type: ignore[assignment]
        environment = variables(self.cache) | changes
        kept = {name: value for name, value in environment.items() if value is not None}
        return self.shell(Order(script, tuple(merged.values()), folder, kept, **options)), folder  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    root = tmp_path_factory.mktemp("bad_inputs")
    _write_corpus(root / "corpus")
    _write_files(root / "files")
    shell = Shell()
    place = Workplace(shell, root)
    outcome, _ = place("train", f"run_dir={place.run}", "trainer.max_steps=4", "training.validation_sequences=null")
    assert outcome.status == 0, outcome.stderr
    yield place
    shell.close()


def _write_corpus(folder: Path) -> None:
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Document {number} says: {number * 'to be or not to be, '}. " * 3)


def _write_files(folder: Path) -> None:
    folder.mkdir()
    (folder / "folder").mkdir()
    (folder / "dangling.txt").symlink_to("/nowhere/at/all")
    contents: dict[str, bytes] = {
        "empty.jsonl": b"",
        "list.jsonl": b"[1, 2]\n" * 20,
        "number.jsonl": b'{"text": 5}\n' * 20,
        "broken.jsonl": b'{"text": "fine"}\nnot json\n',
        "mark.jsonl": b"\xef\xbb\xbf" + b'{"text": "to be or not to be, that is the question"}\n' * 200,
        "pairs.jsonl": b'{"q": "a", "r": "b"}\n{"q": "c"}\n',
        "utf16.txt": ("hello there " * 300).encode("utf-16"),
        "cut.txt.gz": gzip.compress(b"hello " * 4000)[:40],
        "fake.txt.gz": b"hello " * 400,
        "cut.parquet": b"PAR1xxxxPAR1",
        "image.png": b"\x89PNG",
        "distribution_short.json": b'{"sequences": ["ab", "ba"], "probabilities": [0.5]}',
        "distribution_nan.json": b'{"sequences": ["ab", "ba"], "probabilities": [NaN, 0.5]}',
        "distribution_list.json": b"[1]",
        "distribution_mixed.json": b'{"sequences": [[1, 2], [2, "x"]]}',
        "distribution_mark.json": b"\xef\xbb\xbf" + b'{"sequences": ["ab", "ba"]}',
        "object.json": b"{}",
        "array.json": b"[]",
        "bytes.json": b"\xff\xfe\x00",
        "empty.ckpt": b"",
        "no_archive.ckpt": b"PK\x03\x04 and then nothing",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
