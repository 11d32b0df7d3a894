"""Whether two texts give the same mathematical answer, by math-verify in a process of its own.

Its own time limits are signals, which count wall clock, work on the main thread only, and not while Python computes
with huge numbers. A process can be ended wherever it is, by the CPU time that it took.
"""

import atexit
import functools
import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

from mdm_lightning.errors import UserError

_CHILD = Path(__file__).with_name("math_child.py")
_SECONDS = 20
"""Of CPU time for a pair of texts; math-verify by itself gives each of its three steps five seconds, by the clock."""


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
        seconds: of CPU time for a comparison, after which the answers are taken to be different.
    """

    def __init__(self, seconds: int = _SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def equal(self, gold: str, response: str) -> bool:
        """Raises:
        UserError: math-verify does not start.
        """
        with self._lock:
            process = self._process = self._process or _start(self._seconds)
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([gold, response]).encode() + b"\n")
                process.stdin.flush()
                verdict = process.stdout.readline()
            except BrokenPipeError:
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


def _start(seconds: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(_CHILD), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to handle
    )
    assert process.stdout is not None
    if not process.stdout.readline():  # it has ended
        reason = process.communicate()[1].decode(errors="replace").strip().split("\n")[-1]
        raise UserError(f'math-verify does not start ({reason}): pip install "mdm-lightning[lm-eval]"')
    return process
