"""Tables in Markdown keep their shape whatever their cells hold."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdm_lightning.tables import escape_markdown, markdown_table


def test_layout():
    lines = markdown_table(["metric", "schedule", "value"], [["nll", "Beta(0.9, 0.3)", "1.5"]], left=2).splitlines()
    assert lines == ["| metric | schedule | value |", "| --- | --- | ---: |", "| nll | Beta(0.9, 0.3) | 1.5 |"]


@given(cells=st.lists(st.text(), min_size=2, max_size=2))
@pytest.mark.parametrize("write", [str, escape_markdown])
def test_a_row_is_a_line_with_as_many_cells_as_columns(write, cells):
    """For whoever reads a backslash before a bar as part of the cell: GitHub and Python-Markdown."""
    row = markdown_table(["a", "b"], [[write(cell) for cell in cells]]).split("\n")[2:]
    assert len(row) == 1
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row[0])) == 3
