import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdm_lightning.data import hub
from mdm_lightning.data.text.sources import Hub
from mdm_lightning.data.text.split import ByCharacter, FirstDocuments, LastDocuments, Published, Split
from mdm_lightning.data.tokenizer.spec import ByteLevel
from mdm_lightning.errors import UserError
from tests.patience import SECONDS

from .conftest import make_texts, write_jsonl

TRAIN, VALIDATION = make_texts(300), make_texts(40, seed=1)


def source(path: Path | None, split: Split, **keywords) -> Hub:
    path_text = None if path is None else str(path)
    return Hub("copy", "nobody/nothing", length=16, split=split, path=path_text, **keywords)


def sizes(prepared) -> tuple[int, int]:
    return prepared.train.stream.size, prepared.validation.stream.size


def tokens(texts: list[str]) -> int:
    return sum(len(text.encode()) + 1 for text in texts)


def parquet(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path)


def clone_with_splits(folder: Path) -> Path:
    parquet(folder / "data" / "train-00000-of-00002.parquet", TRAIN[:150])
    parquet(folder / "data" / "train-00001-of-00002.parquet", TRAIN[150:])
    parquet(folder / "data" / "validation-00000-of-00001.parquet", VALIDATION)
    (folder / "README.md").write_text("a data set")
    return folder


def jsonl_with_splits(folder: Path) -> Path:
    write_jsonl(folder / "training.jsonl", TRAIN)
    write_jsonl(folder / "valid.jsonl", VALIDATION)
    return folder


def saved_with_splits(folder: Path) -> Path:
    tables = {"train": TRAIN, "validation": VALIDATION}
    datasets.DatasetDict(
        {split: datasets.Dataset.from_dict({"text": texts}) for split, texts in tables.items()}
    ).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("make", [clone_with_splits, jsonl_with_splits, saved_with_splits])
def test_published_splits_of_a_copy(make, tmp_path):
    data = source(make(tmp_path / "copy"), Published()).prepare(ByteLevel(), tmp_path)
    assert sizes(data) == (tokens(TRAIN), tokens(VALIDATION))


def test_last_documents_of_every_kind_of_copy(tmp_path):
    parquet(tmp_path / "a" / "plain_text" / "train-00000.parquet", TRAIN)
    write_jsonl(tmp_path / "b" / "owt.jsonl", TRAIN)
    datasets.Dataset.from_dict({"text": TRAIN}).save_to_disk(tmp_path / "c")
    for folder in "abc":
        data = source(tmp_path / folder, LastDocuments(20)).prepare(ByteLevel(), tmp_path / "cache")
        assert sizes(data) == (tokens(TRAIN[:-20]), tokens(TRAIN[-20:]))


def test_empty_rows_do_not_shift_the_split(tmp_path):
    texts = ["", "", *TRAIN, ""]
    parquet(tmp_path / "train.parquet", texts)
    data = source(tmp_path, LastDocuments(20)).prepare(ByteLevel(), tmp_path / "cache")
    assert sizes(data) == (tokens(TRAIN[:-19]), tokens(TRAIN[-19:]))


def test_config_chooses_its_folder(tmp_path):
    parquet(tmp_path / "copy" / "sample" / "10BT" / "x.parquet", TRAIN)
    parquet(tmp_path / "copy" / "sample" / "100BT" / "x.parquet", VALIDATION)
    data = source(tmp_path / "copy", FirstDocuments(10), config="sample-10BT").prepare(ByteLevel(), tmp_path)
    assert sizes(data) == (tokens(TRAIN[10:]), tokens(TRAIN[:10]))


def test_rows_become_articles(tmp_path):
    rows = ["", " = One = \n", "", " first line \n", " = = Section = = \n", " text \n", " = Two = \n", " more text \n"]
    for split in ("train", "validation"):
        parquet(tmp_path / "copy" / f"{split}.parquet", rows)
    data = source(tmp_path / "copy", Published(), document_start="^ = [^=]").prepare(ByteLevel(), tmp_path)
    decoded = data.tokenizer.decode(data.train.stream, skip_special=False)
    assert decoded.split("<|endoftext|>") == ["".join(rows[:6]), "".join(rows[6:]), ""]


def test_one_text_without_line_breaks(tmp_path):
    (tmp_path / "text8").write_text(" ".join(TRAIN).replace("\n", " "))
    length = len((tmp_path / "text8").read_bytes().decode())
    data = source(tmp_path / "text8", Published(otherwise=ByCharacter(0.9, 0.95))).prepare(ByteLevel(), tmp_path / "c")
    text = (tmp_path / "text8").read_text()
    train, validation = text[: round(0.9 * length)], text[round(0.9 * length) : round(0.95 * length)]
    assert sizes(data) == (tokens([train]), tokens([validation]))


def test_token_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mdm_lightning.data.text.packing._BATCH_CHARACTERS", 1000)
    write_jsonl(tmp_path / "copy" / "x.jsonl", TRAIN)
    data = source(tmp_path / "copy", FirstDocuments(20), token_limit=10_000).prepare(ByteLevel(), tmp_path)
    assert 10_000 <= data.train.stream.size < 12_000
    assert data.validation.stream.size == tokens(TRAIN[:20])


def test_streamed_table(tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "x.jsonl", TRAIN)

    def load(*_, **keywords):
        assert keywords["streaming"]
        return real("json", data_files=str(file), streaming=True, cache_dir=str(tmp_path / "hub"))

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: True)
    data = source(None, FirstDocuments(20), streaming=True).prepare(ByteLevel(), tmp_path)
    assert sizes(data) == (tokens(TRAIN[20:]), tokens(TRAIN[:20]))
    with pytest.raises(UserError, match="streaming=false"):
        source(None, LastDocuments(20), streaming=True).prepare(ByteLevel(), tmp_path)
    with pytest.raises(UserError, match="to one of: text"):
        source(None, FirstDocuments(20), streaming=True, text_field="body").prepare(ByteLevel(), tmp_path)


@pytest.mark.parametrize("offline", ["no name", "HF_HUB_OFFLINE", "no answer"])
def test_without_a_network_it_fails_at_once(offline, tmp_path):
    # An address of the documentation block (RFC 5737) answers nothing.
    endpoint = {"no answer": "https://192.0.2.1"}.get(offline, "https://nothing.invalid")
    extra = {"HF_HUB_OFFLINE": "1"} if offline == "HF_HUB_OFFLINE" else {}
    code = """if True:
        import sys
        from pathlib import Path
        import datasets
        from mdm_lightning.data.text.split import LastDocuments
        from mdm_lightning.data.text.sources import Hub
        from mdm_lightning.data.tokenizer.spec import ByteLevel
        attempts = []
        sys.addaudithook(lambda event, _: attempts.append(event) if event == "socket.connect" else None)
        try:
            Hub("owt", "Skylion007/openwebtext", length=8, split=LastDocuments(9)).prepare(ByteLevel(), Path("cache"))
        except Exception as error:
            print(type(error).__name__, len(attempts), error)
    """
    direct = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**direct, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **extra}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=SECONDS)
    kind, attempts, message = run.stdout.split(" ", 2)
    assert kind == "UserError"
    assert int(attempts) <= 1, "a library that tries again and again takes minutes"
    assert "data.path=" in message
    assert message.count("\n") == 1


def test_downloaded_data_works_without_a_network(tmp_path, monkeypatch):
    cache = tmp_path / "hf" / "datasets"
    file = write_jsonl(tmp_path / "x.jsonl", TRAIN)
    datasets.load_dataset("json", data_files=str(file), cache_dir=str(cache))
    built = next((cache / "json").glob("*/*/*/dataset_info.json")).parent
    # What is left in the cache after a download from the hub.
    place = cache / "nobody___nothing" / "default" / "0.0.0" / "0123abcd"
    place.parent.mkdir(parents=True)
    built.rename(place)
    info = json.loads((place / "dataset_info.json").read_text())
    info.update(builder_name="nothing", dataset_name="nothing", config_name="default")
    (place / "dataset_info.json").write_text(json.dumps(info))
    for arrow in place.glob("json-*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("json-", "nothing-")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))  # pyright: ignore
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://nothing.invalid")
    data = source(None, LastDocuments(20)).prepare(ByteLevel(), tmp_path)
    assert sizes(data) == (tokens(TRAIN[:-20]), tokens(TRAIN[-20:]))


def test_prepared_tokens_need_no_source(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: True)
    table = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TRAIN})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    first = source(None, LastDocuments(20)).prepare(ByteLevel(), tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("loaded again"))
    assert source(None, LastDocuments(20)).prepare(ByteLevel(), tmp_path).fingerprint == first.fingerprint


def test_proxy_is_what_is_probed(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://nothing.invalid")
        assert hub.hub_is_reachable()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: source(path / "nothing", Published()), "does not exist"),
        (lambda path: source(path, Published()), "contains none of"),
        (lambda path: source(path, Published(), token_limit=0), "at least 1"),
    ],
)
def test_bad_copies(make, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        make(tmp_path / "empty").prepare(ByteLevel(), tmp_path)


def test_copy_without_training_text(tmp_path):
    write_jsonl(tmp_path / "copy" / "test.jsonl", TRAIN)
    with pytest.raises(UserError, match="no training files, only test"):
        source(tmp_path / "copy", Published()).prepare(ByteLevel(), tmp_path)


def test_damaged_saved_copy(tmp_path):
    saved_with_splits(tmp_path / "copy")
    (tmp_path / "copy" / "train" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="save it again"):
        source(tmp_path / "copy", Published()).prepare(ByteLevel(), tmp_path)


def test_gzipped_copy(tmp_path):
    (tmp_path / "copy").mkdir()
    with gzip.open(tmp_path / "copy" / "train.txt.gz", "wt") as file:
        file.write("\n".join(TRAIN))
    data = source(tmp_path / "copy", LastDocuments(5)).prepare(ByteLevel(), tmp_path)
    assert sum(sizes(data)) == len("\n".join(TRAIN).encode()) + 2
