"""From an exception to what the person at the keyboard sees: one line, and an exit status."""

import functools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.errors import UserError
from mdm_lightning.experiment.folders import discard_new
from mdm_lightning.stopping import Stopped, ignore_signals, raise_on_signals
from mdm_lightning.training.checkpointing import PREEMPTED, Preempted

T = TypeVar("T")

ERROR_FILE = "MDM_ERROR_FILE"  # where a launched rank leaves its last words


class RanksFailed(UserError):
    """Ranks that this process launched have failed; they said why, and with this status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run_command(main: Callable[[], object]) -> None:
    """Runs a Hydra main function and exits: 0 done, 1 error, 75 preempted and resumable, 130 (Ctrl-C), 138 (SIGUSR1) or
    143 (SIGTERM) stopped with nothing to go on with.

    An error is one line on standard error; ``debug=true`` on the command line shows the traceback as well. A command
    that came to nothing leaves no folder behind.
    """
    raise_on_signals()
    # Hydra prints and swallows exceptions unless told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _exit_with_one_line(main)


def single_job(task: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Decorates the job below ``hydra.main``: outside a multirun its errors are reported before Hydra adds to them."""

    @functools.wraps(task)
    def job(config: DictConfig) -> T:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return task(config)
        return _exit_with_one_line(lambda: task(config))

    return job


def _exit_with_one_line(action: Callable[[], T]) -> T:
    debug = any(argument.lower() in ("debug=true", "debug=1") for argument in sys.argv[1:])
    try:
        return action()
    except Preempted as stop:
        _leave(f"{stop}; resume with {_override('ckpt', stop.checkpoint.parent.parent)}", PREEMPTED)
    except RanksFailed as failure:
        _leave(str(failure), failure.status)
    except Stopped as stop:
        _leave(str(stop), stop.status)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _leave(f"error: {explain(error)}" + ("" if debug else _hint(error)), 1)


def _override(key: str, path: Path) -> str:
    """An override as it can be typed: a path that is more than a plain word is quoted for Hydra and for the shell."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return f"{key}={path}"
    quoted = f"{key}='{path}'"
    return shlex.quote(quoted) if re.search(r'["$`\\!]', quoted) else f'"{quoted}"'


def explain(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        return explain(error.__cause__) + (f" (in the configuration: {key})" if key else "")
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, UserError | ValueError | HydraException | OmegaConfBaseException):
        return text
    return f"{type(error).__name__}: {text}"


def _hint(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    addressed = isinstance(error, UserError | HydraException | OmegaConfBaseException)
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
    sys.stdout.flush()
    # Not sys.exit: threads of data loaders and process groups may keep a failed interpreter from ending.
    os._exit(status)
