"""The page of trajectories, read as a browser reads it."""

from html.parser import HTMLParser

import pytest

from mdm_lightning.evaluation.generation.trajectory import trajectory_page

NASTY = [
    *("<script>alert(1)</script>", "</span></pre>", "&amp;", '"', "'", "$caption", "${x}"),
    *("\n", "  ", "░", "é", "<|endoftext|>", "\\u2591"),
]


def single(texts) -> list[tuple[str, int]]:
    """Every token a piece."""
    return [(text, 1) for text in texts]


class Page(HTMLParser):
    """The spans of tokens with their text, and everything that a page could load from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tokens: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.paragraphs = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("input", "meta"):
            self._open.append((tag, attributes, []))

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)
        self.paragraphs += data

    def handle_endtag(self, tag):
        opened, attributes, text = self._open.pop()
        assert opened == tag, "tags are nested"
        if tag == "span" and ("data-step" in attributes or attributes.get("class") == "given"):
            self.tokens.append((attributes, "".join(text)))


def test_every_token_reads_as_it_is_at_its_step():
    steps = [-1, *range(len(NASTY) - 1)]
    page = Page(trajectory_page([single(NASTY), single(NASTY[::-1])], [steps, steps[::-1]], "a caption"))
    assert [text for _, text in page.tokens] == [*NASTY, *NASTY[::-1]]
    found = [-1 if a.get("class") == "given" else int(a["data-step"] or "") for a, _ in page.tokens]
    assert found == [*steps, *steps[::-1]]
    assert page.tags.count("pre") == 2
    assert page.tags.count("script") == 1


def test_the_page_needs_nothing_from_elsewhere():
    text = trajectory_page([single("ab")], [[0, 1]], "http is only a word here")
    assert Page(text).links == []
    assert "url(" not in text
    assert "@import" not in text


def test_the_caption_is_text():
    page = Page(trajectory_page([single("a")], [[0]], "schedule: <b>Beta</b> & co $steps"))
    assert "schedule: <b>Beta</b> & co $steps" in page.paragraphs
    assert "b" not in page.tags


def test_later_steps_are_darker():
    """The colour tells the order: its brightness falls from the first step to the last."""
    page = Page(trajectory_page([single("a" * 9)], [list(range(9))], ""))
    brightness = []
    for attributes, _ in page.tokens:
        colour = (attributes["style"] or "").removeprefix("background:#")
        red, green, blue = (int(colour[i : i + 2], 16) for i in (0, 2, 4))
        brightness.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] > brightness[-1] + 50


@pytest.mark.parametrize(("pieces", "steps"), [([], []), ([["a", "b"]], [[-1, -1]]), ([["a"]], [[0]])])
def test_pages_with_little_on_them(pieces, steps):
    assert 'max="0"' in trajectory_page([single(row) for row in pieces], steps, "")


def test_a_character_of_several_tokens_comes_with_the_last_of_them():
    page = Page(trajectory_page([[("a", 1), ("é", 2), ("本", 3), ("b", 1)]], [[0, 5, 2, -1, -1, -1, 3]], ""))
    assert [(text, attributes.get("data-step")) for attributes, text in page.tokens] == [
        ("a", "0"), ("é", "5"), ("本", None), ("b", "3"),
    ]  # fmt: skip
