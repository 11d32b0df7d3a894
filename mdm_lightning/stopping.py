"""What signals do to a command, from its first line to its last. Imports nothing that takes time.

While a command imports, a signal ends it at once. Then, and until there is something to save, signals raise Stopped.
During training they are noted, and looked at after each step (training/signals.py). A command that the kernel kills
cannot do any of that: the ranks that it has launched end by themselves.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LAUNCHER = "MDM_LAUNCHER"  # to a launched rank: descriptor of a pipe that closes when the process that launched it ends

PREEMPTED = 75  # exit status EX_TEMPFAIL: "preempted, resume me"

_IMPATIENT = 1.0  # seconds after which a second signal is not an echo of the first


class Stopped(BaseException):
    """A signal ends the command. Not an Exception, so that nothing but the command swallows it; nor a
    KeyboardInterrupt, at which Lightning would exit with a status of its own."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {self.number.name}")

    @property
    def status(self) -> int:
        """Exit status, as shells count: 130, 138 or 143."""
        return 128 + self.number


class Preempted(BaseException):
    """Training stopped at a signal, after saving. Not an Exception: nothing but the command may swallow it."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"preempted: training state saved in {checkpoint}")
        self.checkpoint = checkpoint


def prepare_to_stop() -> None:
    """The first line of a command: before anything that takes time is imported."""
    _install(_exit)
    _end_with_launcher()


def raise_on_signals() -> None:
    """From here on whoever runs the command catches Stopped."""
    owner, stopped_at = os.getpid(), [0.0]

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process that loads data: only its parent may end it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if stopped_at[0]:  # Ctrl-C reaches a rank from the terminal and through the process that launched it
            if time.monotonic() - stopped_at[0] > _IMPATIENT:
                _exit(number, frame)
            return
        stopped_at[0] = time.monotonic()
        raise Stopped(number)

    _install(stop)


def ignore_signals() -> None:
    """For the last moments of a command, whose exit status is settled."""
    _install(signal.SIG_IGN)


def _install(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or in the background of a script
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    stop = Stopped(number)
    os.write(2, f"{stop}\n".encode())
    os._exit(stop.status)


def _end_with_launcher() -> None:
    descriptor = os.environ.pop(LAUNCHER, None)
    if descriptor is None:
        return

    def watch() -> NoReturn:
        os.read(int(descriptor), 1)  # returns when the last process that could write has ended
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
