"""Ranks for ``launch_ranks``, forked like the commands themselves instead of started as new interpreters: the launcher
does with them what it does with a ``subprocess.Popen``, and they import nothing."""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from mdm_lightning.commands import launch

Run = Callable[[Sequence[str], Mapping[str, str]], None]


def serve(number: int, run: Run) -> None:
    """Has the launcher of this process use so many ranks that wait from now on; after that, new interpreters again.

    Forked at once, they know nothing of what the command does until then, as new interpreters would not.
    """
    waiting = [_Rank(run) for _ in range(number)]

    def start(command: Sequence[str], env: Mapping[str, str], **options: Any) -> "_Rank | subprocess.Popen":
        if not waiting:
            return subprocess.Popen(command, env=env, **options)
        # They were forked before the launcher made its pipe, and do not have it.
        return waiting.pop(0).begin(command, {name: value for name, value in env.items() if name != launch.LAUNCHER})

    launch.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": start})


class _Rank:
    """A process that waits for a command line and an environment; ends if none comes before its parent ends."""

    def __init__(self, run: Run) -> None:
        self.returncode: int | None = None
        receive, self._send = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._send)
            _live(receive, run)
        os.close(receive)

    def begin(self, command: Sequence[str], environment: Mapping[str, str]) -> "_Rank":
        with open(self._send, "wb") as file:
            pickle.dump((command[1:], dict(environment)), file)  # without the interpreter
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _live(receive: int, run: Run) -> None:
    """As an interpreter would; does not return."""
    status: int | str | None = 1
    try:
        with open(receive, "rb") as file:
            command, environment = pickle.load(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run(command, environment)
        status = 0
    except EOFError:  # not needed
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
