"""Whether a fragment of Python source, cut out at arbitrary places, can be part of a program. Nothing is executed."""

import ast
import codeop
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<string> (?P<quotes> \"{3} | '{3} ) (?: \\. | (?! (?P=quotes) ) . )* (?P=quotes)?
              | " (?: \\. | [^"\\\n] )* "?
              | ' (?: \\. | [^'\\\n] )* '? )
  | (?P<comment> \# [^\n]* )
  | (?P<opening> [(\[{] )
  | (?P<closing> [)\]}] )
  | (?P<joined> \\\n )
  | (?P<newline> \n )
    """,
    re.VERBOSE | re.DOTALL,
)
_CODE = re.compile(r"^([ ]*)(?=[^\s#])(\w*)", re.MULTILINE)
# What may stand in front of lines that begin inside brackets: the statement, the brackets (those of a set or of a
# dictionary), and the expression that the lines go on with.
_STATEMENTS = ("_ =", "if", "def", "with")
_OPENERS = ({")": "_(", "]": "_[", "}": "{"}, {")": "_(", "]": "_[", "}": "{_: "})
_OPERANDS = ("", "_", "_ if _", "_ for _ in _")
_CLAUSES = {"elif", "else", "except", "finally"}
_FLAGS = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # pyright: ignore[reportAttributeAccessIssue]


def parses(text: str, *, from_start: bool = False, to_end: bool = False) -> bool | None:
    """Whether the whole lines of a fragment are Python: there is source that goes on with them and parses.

    The first line is dropped, because it may begin anywhere, and what follows the last line break. The rest may begin
    inside nested blocks, inside brackets or inside a triple-quoted string that ends in the fragment, and end in the
    middle of a statement. A fragment that lies wholly inside a string cannot be told from prose: it does not parse.

    Args:
        from_start: the fragment begins where its source does; nothing is dropped or supplied there.
        to_end: it ends where its source does; nothing is dropped there, and nothing may be missing.

    Returns:
        None if the fragment has no whole line with code on it.
    """
    text = re.sub(r"\r\n?", "\n", text).replace("\f", " ").expandtabs(8)
    if to_end and not text.endswith("\n"):
        text += "\n"
    first = 0 if from_start else text.find("\n") + 1
    fragment = text[first : text.rfind("\n") + 1]
    if (first == 0 and not from_start) or not _CODE.search(fragment):
        return None
    if from_start:
        return _accepted(fragment, whole=to_end)
    return any(_continues(fragment[begin:], whole=to_end) for begin in _beginnings(fragment))


def _beginnings(fragment: str) -> Iterator[int]:
    """Where the first whole statement may begin: at once, or after one that began before the fragment."""
    yield 0
    if unopened := list(_unopened(fragment)):
        end = _end_of_line(fragment, unopened[-1].end())
        if _closes(fragment[:end], [token.group() for token in unopened]):
            yield end
    for quotes in ('"""', "'''"):
        if (place := fragment.find(quotes)) >= 0:
            yield _end_of_line(fragment, place + len(quotes))


def _unopened(fragment: str) -> Iterator[re.Match[str]]:
    """Closing brackets that were opened before the fragment."""
    depth = 0
    for token in _TOKEN.finditer(fragment):
        if token.lastgroup == "closing" and depth == 0:
            yield token
        depth = _deeper(depth, token)


def _closes(head: str, closing: list[str]) -> bool:
    """Whether lines are the end of a statement in which these brackets were open."""
    for statement, openers, operand in itertools.product(_STATEMENTS, _OPENERS, _OPERANDS):
        brackets = "".join(openers[bracket] for bracket in reversed(closing))
        if _accepted(f"{statement} {brackets}{operand} {head}", whole=False):
            return True
    return False


def _continues(fragment: str, whole: bool) -> bool:
    """Whether statements can stand inside some nested blocks."""
    lines = list(_logical_lines(fragment))
    return not lines or _accepted(_scaffold(lines) + fragment, whole)


class _Line(NamedTuple):
    """A logical line with code on it."""

    indentation: int
    keyword: str
    """Its first word, if it begins with one."""


def _logical_lines(fragment: str) -> Iterator[_Line]:
    begin = 0
    while begin < len(fragment):
        end = _end_of_line(fragment, begin)
        if match := _CODE.match(fragment, begin, end):
            yield _Line(len(match[1]), match[2])
        begin = end


def _end_of_line(fragment: str, begin: int) -> int:
    """Where the logical line ends that is at ``begin``, outside of brackets and strings."""
    depth = 0
    for token in _TOKEN.finditer(fragment, begin):
        if token.lastgroup == "newline" and depth == 0:
            return token.end()
        depth = _deeper(depth, token)
    return len(fragment)


def _deeper(depth: int, token: re.Match[str]) -> int:
    return max(0, depth + (token.lastgroup == "opening") - (token.lastgroup == "closing"))


def _scaffold(lines: list[_Line]) -> str:
    """Source that opens the blocks in which lines stand: one for every indentation that they fall back to."""
    first, *others = lines
    levels = [first]
    for line in others:
        if line.indentation < levels[-1].indentation:
            levels.append(line)
    outer = "if _:\n" if levels[-1].indentation > 0 else ""
    blocks = "".join(_header(level) + "\n" for level in reversed(levels[1:]))
    before = f"{_header(first)} _\n" if first.keyword in _CLAUSES else ""
    return outer + blocks + before


def _header(line: _Line) -> str:
    """A header that a line with the next clause of the statement, or with another statement, can follow."""
    indent = " " * line.indentation
    return f"{indent}if _:" if line.keyword == "elif" else f"{indent}try: _\n{indent}except _:"


def _accepted(source: str, whole: bool) -> bool:
    """Whether source parses; unless it is whole, something may be missing at its end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<fragment>", "exec", _FLAGS, dont_inherit=True)
    except SyntaxError as error:
        return not whole and error.msg == "incomplete input"
    except (ValueError, RecursionError, MemoryError):
        return False
    return True
