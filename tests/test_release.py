"""What a release is called in several places is called alike."""

import re
from pathlib import Path

import mdm_lightning

ROOT = Path(__file__).parents[1]


def test_citation_and_changelog_name_the_version() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited
    assert newest
    assert cited[1] == newest[1] == mdm_lightning.__version__
