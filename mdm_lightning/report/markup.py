"""Tables as Markdown and LaTeX."""

from collections.abc import Callable

from mdm_lightning.report.tables import Item, Table
from mdm_lightning.tables import escape_markdown, markdown_table, plain_line

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "−": r"$-$",
    "—": "---",
    **{character: "\\" + character for character in "&%$#_"},
}


def markdown(table: Table, escape: Callable[[str], str] = escape_markdown) -> str:
    """A GitHub table under its caption.

    Args:
        table: what it shows.
        escape: of its text; ``plain_line`` for a terminal, where backslashes would be in the way.
    """
    rows = ([f"**{escape(item.text)}**" if item.bold else escape(item.text) for item in row] for row in table.rows)
    return f"{escape(table.caption)}\n\n{markdown_table([*map(escape, table.header)], rows)}\n"


def latex(table: Table) -> str:
    """A table environment for the booktabs package."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.caption)}.}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(map(escape_latex, table.header))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(_latex_item, row))} \\\\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, on one line: a line break would end a comment, an empty line a row."""
    return "".join(_LATEX.get(character, character) for character in plain_line(text))


def _latex_item(item: Item) -> str:
    text = escape_latex(item.text)
    return rf"\textbf{{{text}}}" if item.bold else text
