"""The page on architecture lists the private parts of libraries that are used, and tests that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mdm_lightning"


def section() -> str:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    return text.partition("## Private parts of libraries\n")[2].partition("\n## ")[0]


def is_private(name: str) -> bool:
    return any(re.match(r"_(?!_)", part) for part in name.split("."))


def private_imports() -> Iterator[tuple[Path, str, str]]:
    """File, module and name of what is imported from private modules, or under a private name, of other packages."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(PACKAGE.name):
                for alias in node.names:
                    if is_private(node.module) or is_private(alias.name):
                        yield path, node.module, alias.name
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if is_private(alias.name):
                        yield path, alias.name, ""


def test_private_imports_are_listed_with_their_files():
    found = list(private_imports())
    assert found
    rows = section().splitlines()
    for path, module, name in found:
        where = f"`{path.relative_to(PACKAGE).as_posix()}`"
        parts = [part for part in (module, name) if is_private(part)]
        assert any(where in row and any(part in row for part in parts) for row in rows), (path, module, name)


def test_the_tests_that_are_named_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)`", section())
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).is_file()] == []
