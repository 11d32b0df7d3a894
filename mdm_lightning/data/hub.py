"""The Hugging Face hub: data sets, tokenizers and models from it, failing within seconds where it cannot be reached."""

import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mdm_lightning.data.text.corpus import Corpus, FileCorpus, TableCorpus, files_identity, find_files
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
]

_PROBE_SECONDS = 4.0
_SPLIT_NAMES = {
    "train": r"train(ing)?",
    "validation": r"valid(ation)?|val|dev",
    "test": r"test",
}


def load_hub(name: str, config: str | None, revision: str | None, field: str, *, streaming: bool) -> dict[str, Corpus]:
    """Splits of a data set on the hub, or of the copy of it in the local hub cache.

    Raises:
        UserError: it cannot be had, with what to set instead; without a network, within seconds.
    """
    import datasets

    try:
        with offline_unless_reachable():
            loaded = datasets.load_dataset(name, config, revision=revision, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"cannot load {name} from the Hugging Face hub ({reason}); "
            "check the network, or set data.path= to a local copy"
        ) from error
    return _tables(loaded, field, name)


def load_copy(path: Path, config: str | None, field: str) -> dict[str, Corpus]:
    """Splits of a local copy: a `save_to_disk` folder, a clone of the hub repository, or any parquet, jsonl or txt.

    Raises:
        UserError: there is nothing to read.
    """
    if _saved_to_disk(path):
        import datasets

        try:
            return _tables(datasets.load_from_disk(str(path)), field, str(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a whole save_to_disk folder ({error}); save it again") from error
    files = _copy_files(path, config)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        relative = file.relative_to(path) if path.is_dir() else Path(file.name)
        by_split.setdefault(_split_of(relative) or "train", []).append(file)
    if "train" not in by_split:
        raise UserError(f"{path} has no training files, only {', '.join(sorted(by_split))}; check data.path=")
    return {split: FileCorpus(found, text_field=field) for split, found in by_split.items()}


def copy_identity(path: Path, config: str | None) -> str:
    """A hash of a local copy that changes when its files do."""
    return files_identity(find_files(path, [""]) if _saved_to_disk(path) else _copy_files(path, config))


def fetch_tokenizer(name: str, revision: str | None) -> Path:
    """The folder of a hub model's tokenizer, from the local hub cache if it is there.

    Raises:
        UserError: it cannot be had; without a network, within seconds.
    """
    return fetch_files(
        name,
        revision,
        TOKENIZER_FILES,
        lambda folder: [] if has_tokenizer(folder) else ["tokenizer.json", "vocab.json"],
        kind="the tokenizer",
        instead="set tokenizer.name_or_path= to a tokenizer.json or a folder that contains one",
        without_network=", and data.path= to a local copy of the data",
    )


def refuse_missing_tokenizer(name_or_path: str) -> None:
    """Raises:
    UserError: there is nothing at what is a path, rather than ``name`` or ``owner/name`` on the hub.
    """
    names_path = (
        name_or_path.startswith((".", "/", "~")) or name_or_path.endswith(".json") or name_or_path.count("/") > 1
    )
    path = Path(name_or_path).expanduser()
    if names_path and not path.exists():
        raise UserError(f"there is no tokenizer at {path}; check tokenizer.name_or_path=")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the published forms."""
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def fetch_files(
    name: str,
    revision: str | None,
    patterns: list[str],
    missing: Callable[[Path], list[str]],
    *,
    kind: str,
    instead: str,
    without_network: str = "",
) -> Path:
    """A folder with some files of a hub model, from the local hub cache if they are there.

    Args:
        patterns: files to fetch.
        missing: which of the files that must be there a folder lacks.
        kind: what is fetched, for messages.
        instead: what to do if it cannot be had.
        without_network: what to do besides if there is no network.

    Raises:
        UserError: they cannot be had; without a network, within seconds.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
        if not missing(folder):
            return folder
    except LocalEntryNotFoundError:
        log.debug("%s is not in the local hub cache", name)
    except HFValidationError as error:
        raise UserError(f"{name} is neither an existing path nor a hub name; {instead}") from error
    if not hub_is_reachable():
        raise UserError(f"cannot reach the Hugging Face hub for {kind} {name}; {instead}{without_network}")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load {kind} {name} from the Hugging Face hub ({reason}); {instead}") from error
    lacking = missing(folder)
    if lacking:
        raise UserError(f"{name} on the Hugging Face hub has no {', '.join(lacking)}; {instead}")
    return folder


def _tables(loaded, field: str, name: str) -> dict[str, Corpus]:
    tables = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    corpora = {_split_of(Path(split)) or split: TableCorpus(table, field, name) for split, table in tables.items()}
    if "train" not in corpora:
        raise UserError(
            f"{name} has no train split, only {', '.join(corpora)}; choose another data.config= or data.path="
        )
    return dict(corpora)


def _saved_to_disk(path: Path) -> bool:
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _copy_files(path: Path, config: str | None) -> list[Path]:
    # A clone of the hub repository holds each config in a folder of its own: sample-10BT is sample/10BT.
    for name in (config, config and config.replace("-", "/")):
        if name and (path / name).is_dir():
            path = path / name
            break
    if path.is_dir():
        # A clone also holds a README.md and often the same text in several formats: take the best one.
        for suffix in (".parquet", ".jsonl", ".txt"):
            if any(path.rglob(f"*{suffix}")) or any(path.rglob(f"*{suffix}.gz")):
                return find_files(path, [suffix])
    return find_files(path, [".parquet", ".jsonl", ".txt"])


def _split_of(path: Path) -> str | None:
    """The split that a file's or folder's name speaks of, the file's own name before its folders'."""
    for part in reversed(path.parts):
        for split, pattern in _SPLIT_NAMES.items():
            if re.search(rf"(?<![a-z])({pattern})(?![a-z])", part.lower()):
                return split
    return None


def hub_is_reachable() -> bool:
    """Whether the hub, or the proxy that leads to it, accepts a connection within seconds."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    proxy = getproxies().get(endpoint.scheme)
    if proxy and not proxy_bypass(endpoint.hostname or ""):
        endpoint = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (endpoint.hostname or "", endpoint.port or (80 if endpoint.scheme == "http" else 443))
    answers: list[bool] = []

    def probe() -> None:
        try:
            socket.create_connection(address, timeout=_PROBE_SECONDS).close()
        except OSError as error:
            log.debug("no connection to %s: %s", address, error)
        else:
            answers.append(True)

    # In a thread, because a name lookup knows no time limit.
    thread = Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answers)


def offline_unless_reachable() -> AbstractContextManager[None]:
    """For a block that loads from the hub: without a network it fails, or answers from the cache, within seconds."""
    return nullcontext() if hub_is_reachable() else _offline()


@contextmanager
def _offline() -> Iterator[None]:
    """Make the hub libraries answer from their cache at once instead of retrying for half a minute.

    They read HF_HUB_OFFLINE when imported, which has happened by now, so the constants themselves are set.
    """
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
