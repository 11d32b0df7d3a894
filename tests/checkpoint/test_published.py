"""Published weights are found in a folder, in the local hub cache, on the hub, or not at all: then in one line."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mdm_lightning.checkpoint.published import find_published
from mdm_lightning.data import hub
from mdm_lightning.denoiser.published.loading import read_published
from mdm_lightning.errors import UserError
from tests.denoiser.published import llada, mdlm


class Hub:
    """A hub that holds one folder, of which a part is in the local cache."""

    def __init__(self, monkeypatch, folder: Path, cached: Path | None, reachable: bool) -> None:
        self.folder, self.cached, self.fetched = folder, cached, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(hub, "hub_is_reachable", lambda: reachable)

    def snapshot_download(self, name, *, revision, allow_patterns, local_files_only=False) -> str:
        if local_files_only:
            if self.cached is None:
                raise LocalEntryNotFoundError("not cached")
            return str(self.cached)
        self.fetched.append((name, revision, allow_patterns))
        return str(self.folder)


def test_local_paths_come_first(tmp_path, monkeypatch):
    Hub(monkeypatch, tmp_path, None, reachable=False)
    folder = mdlm().write(tmp_path / "model")
    assert find_published(str(folder)) == folder
    assert find_published(str(folder / "model.safetensors")) == folder / "model.safetensors"


def test_only_what_is_needed_is_fetched(tmp_path, monkeypatch):
    folder = llada().write(tmp_path / "model", shards=2)
    online = Hub(monkeypatch, folder, None, reachable=True)
    assert read_published(find_published("GSAI-ML/LLaDA-8B-Base@main")).vocab_size == 40
    ((name, revision, patterns),) = online.fetched
    assert (name, revision) == ("GSAI-ML/LLaDA-8B-Base", "main")
    names = ["config.json", "model-00001-of-00006.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    assert all(any(Path(name).match(pattern) for pattern in patterns) for name in names)
    assert not any(Path(name).match(pattern) for pattern in patterns for name in ("modeling_llada.py", "x.bin", "x.pt"))


def test_the_cache_serves_if_it_is_complete(tmp_path, monkeypatch):
    """A cache that holds the tokenizer only, or lacks a shard, does not."""
    folder, part = llada().write(tmp_path / "model", shards=2), llada().write(tmp_path / "part", shards=2)
    cached = Hub(monkeypatch, folder, folder, reachable=False)
    assert find_published("GSAI-ML/LLaDA-8B-Base") == folder
    (part / "model-00002-of-00002.safetensors").unlink()
    partial = Hub(monkeypatch, folder, part, reachable=True)
    assert find_published("GSAI-ML/LLaDA-8B-Base") == folder
    assert (len(cached.fetched), len(partial.fetched)) == (0, 1)


def test_a_hub_model_without_weights(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    Hub(monkeypatch, tmp_path, None, reachable=True)
    with pytest.raises(UserError, match=r"on the Hugging Face hub has no model\.safetensors; set ckpt="):
        find_published("someone/something")


@pytest.mark.parametrize("name", ["kuleshov-group/mdlm-owt", "not/a/hub/name"])
def test_without_a_network(name, monkeypatch):
    """One line, without another attempt to connect."""
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **_: pytest.fail(f"looks up {asked}"))
    with pytest.raises(UserError, match="set ckpt= to a run, or to a folder with the model's files") as error:
        find_published(name)
    assert "\n" not in str(error.value)
