"""Whether two texts give the same mathematical answer, by math-verify in a process of its own.

Its own time limits are signals, which work on the main thread only, and not while Python computes with huge numbers. A
process can be ended wherever it is.
"""

import atexit
import functools
import importlib.util
import json
import selectors
import subprocess
import sys
import threading
from pathlib import Path

from mdm_lightning.errors import UserError

_CHILD = Path(__file__).with_name("math_child.py")
_STARTING = 300.0
_SECONDS = 20.0
"""For a pair of texts; math-verify gives each of its three steps five seconds where it can."""


def require_math_verify() -> None:
    """Raises:
    UserError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError('this task needs the math-verify library: pip install "mdm-lightning[lm-eval]"')


def equal(gold: str, response: str) -> bool:
    """Whether the answer that is found in a response equals that of ``gold``; not if it takes forever to tell.

    Raises:
        UserError: math-verify is not installed, or does not start.
    """
    require_math_verify()
    return _verifier().equal(gold, response)


class MathVerifier:
    """A process that compares, started when it is first needed and again where it was lost. May be shared by threads.

    Args:
        seconds: for a comparison, after which the answers are taken to be different.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def equal(self, gold: str, response: str) -> bool:
        """Raises:
        UserError: math-verify does not start.
        """
        with self._lock:
            process = self._process = self._process or _start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([gold, response]).encode() + b"\n")
                process.stdin.flush()
                verdict = _line(process, self._seconds)
            except (BrokenPipeError, TimeoutError):
                verdict = b""
            if not verdict:
                self.close()
            return verdict == b"true\n"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def _verifier() -> MathVerifier:
    return MathVerifier()


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to handle
    )
    try:
        ready = _line(process, _STARTING)
    except TimeoutError:
        ready = b""
    if not ready:
        process.kill()
        reason = process.communicate()[1].decode(errors="replace").strip().split("\n")[-1]
        raise UserError(f'math-verify does not start ({reason}): pip install "mdm-lightning[lm-eval]"')
    return process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """What it says next, nothing if it has ended.

    Raises:
        TimeoutError: it says nothing.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise TimeoutError
    return process.stdout.readline()
