"""What surrounds every command: how it ends, in one line and an exit status, and the folder that it writes to.

One command at a time has a folder, and one that comes to nothing leaves none.
"""

import functools
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.arguments import BadArgument
from mdm_lightning.commands.causes import cause
from mdm_lightning.commands.options.command_line import flags_first, read_flags, readable
from mdm_lightning.commands.options.explanations import explain_composition
from mdm_lightning.commands.options.unread import check_options
from mdm_lightning.commands.program import typed, typed_again, typed_path
from mdm_lightning.errors import UserError
from mdm_lightning.stopping import PREEMPTED, Preempted, Stopped, ignore_signals, raise_on_signals

log = logging.getLogger(__name__)

T = TypeVar("T")

ERROR_FILE = "MDM_ERROR_FILE"  # where a launched rank leaves its last words

LOCK = ".lock"

# What any command writes before it does anything. (Its log says no more than the line on the screen.)
BEGINNINGS = ("*.log", LOCK, "multirun.yaml", "sweep.json")

_new: list[tuple[Path, list[Path]]] = []  # folders that this command has made, with those around them, innermost first


class RanksFailed(UserError):
    """Ranks that this process launched have failed; they said why, and with this status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run_command(main: Callable[[], object], conf: Path, name: str) -> None:
    """Runs a Hydra main function and exits: 0 done, 1 error, 75 preempted and resumable, 130 (Ctrl-C), 138 (SIGUSR1) or
    143 (SIGTERM) stopped with nothing to go on with.

    An error is one line on standard error; ``debug=true`` on the command line shows the traceback as well. A command
    that came to nothing leaves no folder behind.

    Args:
        main: reads ``sys.argv``.
        conf: folder of the configuration.
        name: of its primary file.
    """
    raise_on_signals()
    # Hydra prints and swallows exceptions unless told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # where the output cannot be written, that is said once, and not by each logger
    if isinstance(sys.stdout, io.TextIOWrapper):  # one that cannot spell a generated character must not end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    if ERROR_FILE not in os.environ:  # whoever launched this rank has written the command line already
        sys.argv[1:] = readable(sys.argv[1:])
    arguments = sys.argv[1:]

    def compose_and_run() -> object:
        flags, overrides = read_flags(arguments, conf, name)
        sys.argv[1:] = flags_first(arguments, conf, name)
        try:
            return main()
        except (HydraException, OmegaConfBaseException) as error:
            explained = explain_composition(error, overrides, conf, flags.name)
            if explained is error:  # which must not become its own cause
                raise
            raise explained from error

    _exit_with_one_line(compose_and_run)


def single_job(task: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Decorates the job below ``hydra.main``: its configuration is checked, and outside a multirun its errors are
    reported before Hydra adds to them."""

    @functools.wraps(task)
    def job(config: DictConfig) -> T:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return task(config)
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        return _exit_with_one_line(lambda: task(check_options(config, overrides)))

    return job


def _exit_with_one_line(action: Callable[[], T]) -> T:
    debug = any(argument.lower() in ("debug=true", "debug=1") for argument in sys.argv[1:])
    try:
        return action()
    except Preempted as stop:
        # With what a run does not remember of its command: where prepared data are kept, and callbacks of one's own.
        others = typed_again("cache_dir", "training.callbacks")
        resumed = typed("train", typed_path("ckpt", stop.checkpoint.parent.parent), *others)
        _leave(f"{stop}; resume with: {resumed}", PREEMPTED)
    except RanksFailed as failure:
        _leave(str(failure), failure.status)
    except Stopped as stop:
        _leave(str(stop), stop.status)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _leave(f"error: {explain(error)}" + ("" if debug else _hint(error)), 1)


def explain(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        inner = error.__cause__
        if isinstance(inner, BadArgument) and key:
            return f"{key}.{inner.name} must be {inner.wanted}, got {inner.value}"
        plain = isinstance(inner, TypeError | ImportError)  # of a constructor, which speaks of its arguments
        said = " ".join(str(inner).split()) if plain else explain(inner)
        return said + (f" (in the configuration: {key})" if key else "")
    text = " ".join(str(error).split())
    if not isinstance(error, UserError | HydraException) and (outside := cause(error)) is not None:
        return outside
    if isinstance(error, UserError | ValueError | HydraException | OmegaConfBaseException):
        return text
    return f"{type(error).__name__}: {text}"


def _hint(error: BaseException) -> str:
    ours = UserError | BadArgument | HydraException | OmegaConfBaseException
    addressed = isinstance(error, ours) or cause(error) is not None
    return "" if addressed else " (debug=true shows the traceback)"


def _leave(message: str, status: int) -> NoReturn:
    ignore_signals()
    discard_new()
    rank = os.environ.get("RANK", "0")
    if ERROR_FILE in os.environ:
        # The process that launched this rank prints what the first one to fail has to say, once.
        Path(os.environ[ERROR_FILE]).write_text(message)
    else:
        print(message if rank == "0" else f"[rank {rank}] {message}", file=sys.stderr, flush=True)
    with suppress(OSError):  # whoever read it may have left
        sys.stdout.flush()
    # Not sys.exit: threads of data loaders and process groups may keep a failed interpreter from ending.
    os._exit(status)


class NewFolders(Callback):
    """Hydra callback that notices which folders Hydra is about to make."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(OmegaConfBaseException):  # a name that cannot be resolved makes no folder, and is refused next
            notice_new(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(OmegaConfBaseException):
            notice_new(Path(config.hydra.sweep.dir))


def notice_new(folder: Path) -> None:
    """Called before a folder is made: remembers whether it, and which of those around it, did not exist."""
    folder = folder.absolute()
    if not folder.exists():
        _new.append((folder, [parent for parent in folder.parents if not parent.exists()]))


def discard_new() -> None:
    """Removes the folders that this command has made and that hold nothing but how it began."""
    for folder, around in _new:
        with suppress(OSError):
            _discard(folder)
            for parent in around:
                parent.rmdir()


def _discard(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            _discard(child)
    left = list(folder.iterdir())
    if all(path.is_file() and any(fnmatch(path.name, name) for name in BEGINNINGS) for path in left):
        for path in left:
            path.unlink()
        folder.rmdir()


@contextmanager
def held(folder: Path, kind: str, instead: str) -> Iterator[None]:
    """Holds a folder's lock, which the operating system frees when its holder dies, however it dies.

    Args:
        kind: of command that holds it: "training" or "sweep".
        instead: what to choose another folder by.

    Raises:
        UserError: another command holds it, or the folder cannot be written to.
    """
    notice_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another {kind} is running in {folder}: wait for it, or choose another {instead}"
            ) from None
        except NotImplementedError:
            log.warning("the file system of %s has no locks: run one %s at a time in it", folder, kind)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another {instead}") from error
    try:
        yield
    finally:
        lock.release()
