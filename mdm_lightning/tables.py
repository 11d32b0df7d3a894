"""Tables of text in Markdown: the one place where they are written."""

import re
from collections.abc import Iterable, Sequence

_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")  # one that is not escaped yet


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table as GitHub, TensorBoard and notebooks show it, without a newline at its end.

    Args:
        header: names of the columns.
        rows: cells in Markdown. A bar or a line break in one does not end it.
        left: the first columns, which are flush left; numbers are flush right.
    """
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in (header, rule, *rows))


def escape_markdown(text: str) -> str:
    """Text that Markdown prints as it is, also inside a table and at the beginning of a line, and a terminal too."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", plain_line(text))
    return re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", escaped)


def plain_line(text: str) -> str:
    """One line without control characters, which terminals obey."""
    printable = (character if character.isprintable() or character.isspace() else "\ufffd" for character in text)
    return " ".join("".join(printable).split())


def _cell(text: str) -> str:
    return _BAR.sub(r"\1\\|", plain_line(text))
