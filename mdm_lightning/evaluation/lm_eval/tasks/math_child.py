"""The process behind math_verifier.py: reads pairs of texts, says of each whether their answers are equal."""

import json
import math
import os
import resource
import sys

from math_verify import parse, verify

_MEMORY = 4 << 30
"""Bytes of address space: what a response asks for may be a number of a billion digits."""


def answer_pairs(seconds: int) -> None:
    """One line of JSON each, in and out, until there are no more, or one takes more than so many seconds of CPU time.

    Not of wall clock, which math-verify itself would count: how busy the machine is must not decide a score.
    """
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _MEMORY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where it warns of what takes long
    print("ready", flush=True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)
        try:
            gold, response = (parse(text, parsing_timeout=0) for text in json.loads(line))
            same = bool(verify(gold, response, timeout_seconds=0))
        except Exception:  # of a library that meets texts of any kind
            same = False
        print(json.dumps(same), flush=True)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    answer_pairs(int(sys.argv[1]))
