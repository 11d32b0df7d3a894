"""Every fragment of a correct source parses, broken ones do not, and nothing is ever run."""

import argparse
import heapq
import inspect
import itertools
import json.decoder
import re
import subprocess
import textwrap
import warnings

import pytest

from mdm_lightning.evaluation.generation.python_syntax import parses

SOURCE = """\
@decorated(
    "with (a bracket", [1,
    2])
async def f(a, *, b: int = 3,
            c={"x": [1, 2],
               'y': (3,)}):
    # isn't code (
    if a and (b or
              c):
        return {k: v for k, v in c.items()
                if v}
    elif a:
        x = a + \\
            b
    else:
        try:
            yield a[1:
                    2]
        except (A,
                B) as e:
            raise e from None
        else:
            x = 1

            await x
        finally:
            pass
    for i in range(3):
\tprint(i)
    else:
        continue
    class C(A,
            metaclass=B):
        y = f"{a}" "\\" #"

        z: int = lambda q: q
    with a as b, c as d:
        del a
    while True: break
    return a
q = 1
try:
    import a
except ImportError:
    from b import (c,
                   d)
"""


def test_every_fragment_of_a_correct_source_parses():
    """From any line, and from inside many lines, to any other."""
    starts = [0, *(i + 1 for i, c in enumerate(SOURCE) if c == "\n")]
    compile(SOURCE.replace("\t", " " * 8), "source", "exec", 1024)
    for begin, end in itertools.combinations([*starts, *range(7, len(SOURCE), 29)], 2):
        first, last = sorted((begin, end))
        assert parses(SOURCE[first:last]) is not False, SOURCE[first:last]


def test_whole_sources_parse_as_whole_ones():
    assert parses(SOURCE, from_start=True, to_end=True)
    assert parses(SOURCE.rstrip("\n"), from_start=True, to_end=True)
    assert parses(SOURCE.replace("\n", "\r\n"), from_start=True, to_end=True)
    assert parses(SOURCE[: len(SOURCE) // 2], from_start=True)
    assert parses("x\n" + SOURCE, to_end=True)


@pytest.mark.parametrize("module", [argparse, heapq, json.decoder, subprocess])
def test_real_source_parses_cut_anywhere(module):
    """Without its triple-quoted strings, inside of which nobody can tell."""
    source = re.sub(r'r?("""|\'\'\')(\\.|(?!\1).)*\1', "...", inspect.getsource(module), flags=re.DOTALL)
    cuts = range(0, len(source) - 400, max(1, len(source) // 300))
    verdicts = [parses(source[i : i + 400]) for i in cuts]
    assert verdicts.count(False) <= 0.02 * len(verdicts)
    assert verdicts.count(True) >= 0.6 * len(verdicts)


def test_the_end_of_a_string_is_dropped():
    fragment = '\nsome prose, (it\'s\n  not code.\n    """\n    return x\n'
    assert parses(fragment)
    assert parses(fragment.replace('"""', "'''"))
    assert not parses(fragment.replace('"""', ""))
    assert not parses(fragment.replace("return x", "return return"))


BROKEN = [
    "x = = 1",
    "if a\n    b",
    "if a:\nb",
    "x = 1\n    y = 2",
    "    def f():\n            return 1\n        return 2",
    "x = (1, 2]",
    "f(a b)",
    "print 'a'",
    "x = 'abc\ny = 1",
    "for in x:\n    pass",
    "else:\n    x\nelse:\n    y",
    "x = 1 +\ny = 2",
    "def f(:\n    pass",
    "this was prose, not code",
    "nonsense that goes on\n  ) and closes brackets\nx = 1",
    "return return",
    "1 = x )\ny = 2",
    "x = [1,\ny = 2",
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_wrong_does_not_parse(broken):
    assert parses(f"\n{broken}\n") is False
    assert parses(f"{broken}\n", from_start=True) is False
    indented = textwrap.indent(f"{broken}\n", "        ")
    assert parses(f"junk ) (\n{indented}rest") is False


CUT_SHORT = [
    "def f():",
    "@property",
    "try:\n    x",
    "x = (1,\n  2",
    "x = [{'a':",
    "if x:\n    y\nelse:",
    'x = """abc\ndef',
    "a \\",
]


@pytest.mark.parametrize("text", CUT_SHORT)
def test_what_is_cut_off_is_fine_only_where_it_was_cut(text):
    assert parses(f"\n{text}\n")
    assert parses(f"{text}\n", from_start=True)
    assert not parses(f"{text}\n", from_start=True, to_end=True)
    assert not parses(f"\n{text}\n", to_end=True)


def test_a_beginning_that_is_known_is_not_made_up():
    for text in ("  x = 1\n", "else:\n    x\n", "1)\nx\n", 'prose"""\nx\n'):
        assert parses(f"\n{text}")
        assert not parses(text, from_start=True, to_end=True)


@pytest.mark.parametrize(
    "text", ["", "\n", "x = 1", "half a line\nhalf a line", "\n# comment\n\n   # another\nx", "\n\n\n"]
)
def test_no_whole_line_of_code_is_no_verdict(text):
    assert parses(text) is None


HOSTILE = [
    "a\0b",
    "(" * 10_000,
    ")" * 10_000,
    "[" * 150 + "]" * 150,
    "-" * 100_000 + "1",
    "1" * 100_000,
    "'\ud800'",
    "x = '\\d' is 1",
    "\n".join(" " * i + "if x:" for i in range(500)),
    '"""' * 1001,
    "'" * 10_001,
    "f'{" * 300,
    "\\" * 1001,
    "9" * 5000 + "j",
    "1_000.__class__" + ".a" * 50_000,
    "é = ﬁ\u2028x",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_judged_in_silence(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"from_start": True}, {"to_end": True}):
            assert parses(f"\n{text}\nx = 1\n", **options) in (True, False)


def test_nothing_is_run(tmp_path):
    witness = tmp_path / "witness"
    assert parses(f"\nopen({str(witness)!r}, 'w')\nraise SystemExit\n", to_end=True)
    assert not witness.exists()
