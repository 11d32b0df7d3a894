import json
import random
from pathlib import Path

import pytest

WORDS = ["the", "of", "and", "model", "token", "mask", "noise", "reveal", "schedule", "naïve", "café", "東京", "order"]


def make_texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{i}: " + " ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + ".\n" for i in range(count)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def texts() -> list[str]:
    return make_texts(600)


@pytest.fixture
def corpus_file(tmp_path: Path, texts: list[str]) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", texts)
