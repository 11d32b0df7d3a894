"""Tables as Markdown, LaTeX and HTML."""

import html
import re
from collections.abc import Sequence

from mdm_lightning.report.tables import Item, Table

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


def markdown(table: Table) -> str:
    """A GitHub table under its caption."""
    lines = [escape_markdown(table.caption), "", _markdown_row(table.header)]
    lines.append(_markdown_row([":---", *["---:"] * (len(table.header) - 1)], escaped=True))
    for row in table.rows:
        lines.append(_markdown_row([_markdown_item(item) for item in row], escaped=True))
    return "\n".join(lines) + "\n"


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


def html_table(table: Table) -> str:
    """A table element with its caption."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    body = "\n".join(f"<tr>{_html_row(row)}</tr>" for row in table.rows)
    caption = f"<caption>{html.escape(table.caption)}</caption>"
    return (
        f'<div class="wide"><table>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def escape_markdown(text: str) -> str:
    """Text that Markdown prints as it is, also inside a table and at the beginning of a line, and a terminal too."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", plain_line(text))
    return re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", escaped)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, on one line: a line break would end a comment, an empty line a row."""
    return "".join(_LATEX.get(character, character) for character in plain_line(text))


def plain_line(text: str) -> str:
    """One line without control characters, which terminals obey."""
    printable = (character if character.isprintable() or character.isspace() else "\ufffd" for character in text)
    return " ".join("".join(printable).split())


def _markdown_row(items: Sequence[str], *, escaped: bool = False) -> str:
    return "| " + " | ".join(items if escaped else map(escape_markdown, items)) + " |"


def _markdown_item(item: Item) -> str:
    text = escape_markdown(item.text)
    return f"**{text}**" if item.bold else text


def _latex_item(item: Item) -> str:
    text = escape_latex(item.text)
    return rf"\textbf{{{text}}}" if item.bold else text


def _html_row(row: Sequence[Item]) -> str:
    name, *rest = row
    items = [f"<th>{html.escape(name.text)}</th>"]
    for item in rest:
        text = html.escape(item.text)
        items.append(f"<td><b>{text}</b></td>" if item.bold else f"<td>{text}</td>")
    return "".join(items)
