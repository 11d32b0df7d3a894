"""How long a test waits before it takes what it waits for to hang. Nothing is measured by this clock: on a machine that
is slower still, MDM_TEST_PATIENCE=10 makes every limit ten times as long."""

import os
import time
from collections.abc import Callable

import pytest

SECONDS = 900 * float(os.environ.get("MDM_TEST_PATIENCE", "1"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {SECONDS:.0f} s")
        time.sleep(0.02)
