"""The process behind math_verifier.py: reads pairs of texts, says of each whether their answers are equal."""

import json
import os
import resource
import sys

from math_verify import parse, verify

_MEMORY = 4 << 30
"""Bytes of address space: what a response asks for may be a number of a billion digits."""


def answer_pairs() -> None:
    """One line of JSON each, in and out, until there are no more."""
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where it warns of what takes long
    print("ready", flush=True)
    for line in sys.stdin:
        gold, response = json.loads(line)
        try:
            same = bool(verify(parse(gold), parse(response)))
        except Exception:  # of a library that meets texts of any kind
            same = False
        print(json.dumps(same), flush=True)


if __name__ == "__main__":
    answer_pairs()
