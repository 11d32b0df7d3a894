"""What the site has and the Markdown files only link to: the options in ``conf/``, the examples, the changelog."""

import ast
import re
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
COMMANDS = {"train": ("train",), "evaluate": ("evaluate", "measure"), "sweep": ("sweep", "measure")}
EXAMPLE = re.compile(r"^\[[^\]]+\]\(\.\./(examples/\w+\.py)\)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The changelog lies beside the README, where people look for it."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts a script in the place of a line that links to it and nothing else, and fills the page of the options."""
    if page.file.src_uri == "options.md":
        markdown = markdown.partition("<!-- the site: -->")[0]
        markdown += _options(described=set(re.findall(r"^\| `(\w+)` \|", markdown, re.MULTILINE)))
    return EXAMPLE.sub(lambda link: f'```python title="{link[1]}"\n{(ROOT / link[1]).read_text()}```', markdown)


def _options(described: set[str]) -> str:
    """Every file of ``conf/``: group by group, then what the commands choose themselves.

    Raises:
        PluginError: the page describes other groups than there are.
    """
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    if described != groups:
        raise PluginError(f"docs/options.md should have a row for each group of conf/: {sorted(described ^ groups)}")
    defaults = {command: _defaults(names) for command, names in COMMANDS.items()}
    parts = [_group(group, defaults) for group in sorted(groups)]
    return "\n\n".join(
        ["", *parts, "## What belongs to no group", *map(_root_file, ("train", "evaluate", "measure", "sweep"))]
    )


def _group(group: str, defaults: dict[str, dict[str, list[str]]]) -> str:
    """Choices with their comments, and which are defaults; then their files."""
    rows, blocks = ["| choice | what it is | default of |", "| --- | --- | --- |"], []
    for file in sorted((CONF / group).glob("*.yaml")):
        users = [f"{command}.py" for command, chosen in defaults.items() if file.stem in chosen.get(group, [])]
        package, comment, content = _split(file)
        rows.append(f"| `{group}={file.stem}` | {comment or _summary(content)} | {', '.join(users)} |")
        blocks.append(_block(f"{group}/{file.name}", package + content))
    files = "\n\n".join([f'??? abstract "The files of conf/{group}"', *(_indent(block) for block in blocks)])
    return "\n\n".join([f"## {group}", "\n".join(rows), files])


def _root_file(name: str) -> str:
    return _block(f"{name}.yaml", (CONF / f"{name}.yaml").read_text())


def _block(title: str, content: str) -> str:
    return f'```yaml title="conf/{title}"\n{content.strip()}\n```'


def _split(file: Path) -> tuple[str, str, str]:
    """A file's ``@package`` line, the comment it begins with, as one text, and the rest."""
    lines = file.read_text().splitlines()
    package = lines.pop(0) + "\n" if lines and lines[0].startswith("# @package") else ""
    comment = ""
    while lines and lines[0].startswith("#"):
        line = lines.pop(0).lstrip("# ")
        new_sentence = line[:1].isupper() and comment and comment[-1] not in ".:;,"
        comment += (". " if new_sentence else " ") + line
    # A bar would end the cell of a table.
    return package, comment.strip().replace("|", "\\|"), "\n".join(lines)


def _summary(content: str) -> str:
    """The first sentence of the docstring of the class that a file names."""
    target = (yaml.safe_load(content) or {}).get("_target_", "")
    module, _, name = target.rpartition(".")
    if not module.startswith("mdm_lightning."):
        return f"`{target}`" if target else ""
    source = (ROOT / Path(*module.split(".")).with_suffix(".py")).read_text()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    docstring = next((ast.get_docstring(node) for node in classes if node.name == name), None) or target
    return re.split(r"(?<=[.:]) ", " ".join(docstring.split("\n\n")[0].split()))[0].rstrip(".:")


def _defaults(names: tuple[str, ...]) -> dict[str, list[str]]:
    """What a command chooses of each group unless told otherwise."""
    chosen: dict[str, list[str]] = {}
    for name in names:
        for entry in yaml.safe_load((CONF / f"{name}.yaml").read_text())["defaults"]:
            for group, choice in entry.items() if isinstance(entry, dict) else ():
                choices = choice if isinstance(choice, list) else [choice]
                chosen.setdefault(group.partition("@")[0], []).extend(choices)
    return chosen


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
