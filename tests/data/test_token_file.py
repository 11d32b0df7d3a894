import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdm_lightning.data import token_file
from mdm_lightning.data.token_file import TokenWriter, cached_tokens
from mdm_lightning.errors import UserError
from tests.forkserver import run_side_by_side
from tests.patience import wait_until

IDS = np.random.default_rng(0).integers(0, 1000, 50_000)


def produce(writer: TokenWriter) -> None:
    for part in np.array_split(IDS, 7):
        writer.write(part)


def refuse(writer: TokenWriter) -> None:
    raise AssertionError("built again")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(token_file, "_CHUNK_BYTES", 4096)


def opened(path: Path, build=produce, fingerprint: str = "f", vocab_size: int = 1000) -> np.ndarray:
    return cached_tokens(path, fingerprint, vocab_size, build).tokens


def test_written_ids_come_back(tmp_path):
    path = tmp_path / "a" / "x.tokens"
    assert (opened(path) == IDS).all()
    assert (opened(path, refuse) == IDS).all()
    assert path.stat().st_size == 2 * len(IDS)
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_width_follows_the_vocabulary(vocab_size, dtype, tmp_path):
    last = np.array([0, vocab_size - 1])
    tokens = opened(tmp_path / "x", lambda writer: writer.write(last), vocab_size=vocab_size)
    assert tokens.dtype == dtype
    assert (tokens == last).all()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0\0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[77_777] ^= 1
    path.write_bytes(data)


def spoil_sidecar(path: Path) -> None:
    path.with_name("x.tokens.json").write_text("{")


def forget_sidecar(path: Path) -> None:
    path.with_name("x.tokens.json").unlink()


def forget_data(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, extend, flip, spoil_sidecar, forget_sidecar, forget_data])
def test_damaged_files_are_never_used(damage, tmp_path, caplog):
    path = tmp_path / "x.tokens"
    opened(path)
    damage(path)
    assert (opened(path) == IDS).all()
    assert "built again" in caplog.text
    assert (opened(path, refuse) == IDS).all()


def test_another_fingerprint_is_built_again(tmp_path, caplog):
    opened(tmp_path / "x")
    assert (opened(tmp_path / "x", lambda writer: writer.write([1, 2]), "g") == [1, 2]).all()
    assert "other data or settings" in caplog.text


def test_first_build_warns_of_nothing(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        opened(tmp_path / "x")
    assert not caplog.records


def test_failed_build_leaves_nothing(tmp_path):
    def fail(writer: TokenWriter) -> None:
        writer.write(IDS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "x", fail)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("ids", [[0, 1000], [-1]])
def test_ids_beyond_the_vocabulary(ids, tmp_path):
    with pytest.raises(UserError, match="beyond the vocabulary"):
        opened(tmp_path / "x", lambda writer: writer.write(ids))


def test_unusable_cache_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another cache folder"):
        opened(tmp_path / "file" / "x")


def test_pickles_as_a_path(tmp_path):
    file = cached_tokens(tmp_path / "x", "f", 1000, produce)
    assert (file.tokens == IDS).all()
    data = pickle.dumps(file)
    assert len(data) < 5000
    assert (pickle.loads(data).tokens == IDS).all()


def build_in_process(folder: Path, number: int) -> None:
    def produce(writer: TokenWriter) -> None:
        with (folder / "log").open("a") as file:
            file.write("built\n")
        wait_until(lambda: len(list(folder.glob("there*"))) == 2, "the other process")
        writer.write(IDS)

    (folder / f"there{number}").touch()
    assert (opened(folder / "x", produce) == IDS).all()


def test_two_processes_build_once(tmp_path):
    run_side_by_side(build_in_process, [(tmp_path, number) for number in range(2)])
    assert (tmp_path / "log").read_text() == "built\n"


def test_killed_build_leaves_nothing_trusted(tmp_path):
    code = """if True:
        import sys, time
        from pathlib import Path
        from mdm_lightning.data.token_file import cached_tokens
        def produce(writer):
            writer.write([1] * 100_000)
            writer._file.flush()
            print("half", flush=True)
            time.sleep(10_000)
        cached_tokens(Path(sys.argv[1]), "f", 1000, produce)
    """
    path = tmp_path / "x"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob(".x.*.tmp"))
    assert not path.exists()
    assert (opened(path) == IDS).all()
    assert not list(tmp_path.glob(".x.*.tmp"))
