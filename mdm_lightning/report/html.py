"""HTML from the templates beside this file: pages that need nothing else, pictures and styles inside them."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mdm_lightning.report.tables import Table

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["base64"] = lambda content: base64.b64encode(content).decode()


def render(template: str, **content: Any) -> str:
    """The HTML that a template makes of content, all of which it escapes."""
    return _TEMPLATES.get_template(template).render(**content)


def html_table(table: Table) -> str:
    """A table element with its caption."""
    parts: Any = _TEMPLATES.get_template("parts.html").module
    return str(parts.table(table))
