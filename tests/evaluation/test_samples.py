"""Text to read: what was given stays, what is between follows the distribution."""

import pytest

from mdm_lightning.data.tokenizer.context import encode_fragment, encode_pairs
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.samples import SampleTexts
from tests.tokenizer_families import LOSSLESS

from .corpora import ONE_AT_A_TIME, Shown, text_subject
from .test_task import task_subject
from .test_trajectory import Page

LAW = ["abcde", "abdce", "cabed", "cebad"]


class Kept(Shown):
    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}

    def file(self, name, content):
        self.files[name] = content
        return name


def shown(subject, **options) -> list[str]:
    subject.outputs = Kept()
    rows = list(SampleTexts(ONE_AT_A_TIME, **options)(subject))
    assert [row.metric for row in rows] == ["forward_passes", "tokens_computed", "tokens_per_second"]
    return list(subject.outputs.texts.values())


def test_without_a_prompt_samples_are_from_the_distribution():
    texts = shown(text_subject(LAW, LAW), sequences=40)
    assert len(texts) == 40
    assert set(texts) == set(LAW)


@pytest.mark.parametrize(
    ("prompt", "suffix", "possible"),
    [
        ("ab", None, {"abcde", "abdce"}),
        (None, "d", {"cabed", "cebad"}),
        ("c", "d", {"cabed", "cebad"}),
        ("ab", "ce", {"abdce"}),
        ("", "", set(LAW)),
    ],
)
def test_prompt_and_suffix_are_kept(prompt, suffix, possible):
    """All completions that the distribution has for them come up among 30: one of two or four is missed once in 1e3."""
    texts = shown(text_subject(LAW, LAW), prompt=prompt, suffix=suffix, sequences=30, batch_size=7)
    assert set(texts) == possible


def test_a_task_shows_its_problems_or_the_users_own():
    subject = task_subject({"aaa": 1.0, "bbb": 1.0}, 10)
    assert shown(subject, sequences=3) == ["a\n→ aa", "b\n→ bb", "a\n→ aa"]
    assert shown(subject, sequences=2, prompt="b") == ["bbb", "bbb"]


CHAT = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}{% if add_generation_prompt %}a{% endif %}"


def test_a_chat_shows_what_was_said_and_the_answer():
    """The template's text is given; the answer is what the distribution has after it."""
    distribution = ["[b]acde<", "[b]aced<", "[d]acde<"]
    subject = text_subject(distribution, distribution)
    state = subject.tokenizer.state() | {"chat_template": CHAT}
    subject.tokenizer = Tokenizer.from_state(state)
    texts = shown(subject, prompt="b", chat=True, sequences=20)
    assert set(texts) == {"[b]a\n→ cde<", "[b]a\n→ ced<"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "abc", "suffix": "de"}, "3 and 2 tokens, which leaves no room in 5"),
        ({"prompt": "abcdea"}, "6 and 0 tokens"),
        ({"prompt": "abc", "length": 3}, "no room in 3"),
        ({"length": 6}, "length=6 is beyond the model's 5"),
        ({"prompt": "a?"}, "no tokens for some characters of 'a?'"),
    ],
)
def test_what_cannot_be_completed(options, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        shown(text_subject(LAW, LAW), **options)


@pytest.mark.parametrize("name", ["length", "sequences", "batch_size"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"SampleTexts: {name} must be at least 1"):
        SampleTexts(ONE_AT_A_TIME, **{name: 0})


def test_the_trajectory_shows_what_was_given_and_when_the_rest_came():
    subject = text_subject(LAW, LAW)
    shown(subject, prompt="ab", trajectory=True, sequences=1)
    page = subject.outputs.files["trajectory.html"]
    assert page.count('class="given"') == 2
    assert sorted(page.split('data-step="')[i][0] for i in (1, 2, 3)) == ["0", "1", "2"]
    assert "trajectory.html" not in (shown(subject, prompt="ab") and subject.outputs.files)


def knows(tokenizer: Tokenizer, ids: list[int]) -> Subject:
    def no_data():
        raise AssertionError("text needs no data")

    return Subject(ExactDenoiser([ids], vocab_size=tokenizer.vocab_size), tokenizer, len(ids), no_data)


@pytest.mark.parametrize("family", LOSSLESS.values(), ids=LOSSLESS)
@pytest.mark.parametrize(
    ("prompt", "gap", "suffix"),
    [
        ("Once upon", " a time, é", " there was"),
        ("Once ", "upon a ti", "me"),
        ("", "日本", " is"),
        ("x =", " (1 ", "+ 2)"),
    ],
)
def test_prompt_gap_and_suffix_read_as_one_text(family, prompt, gap, suffix):
    """No space comes or goes where they meet, nor on the page that shows the trajectory."""
    tokenizer = family()
    [(before, between)] = encode_pairs(tokenizer, [prompt], [gap])
    ids = [*before, *between, *encode_fragment(tokenizer, suffix)]
    subject = knows(tokenizer, ids)
    texts = shown(subject, prompt=prompt, suffix=suffix, sequences=1, trajectory=True)
    assert texts == [prompt + gap + suffix]
    page = Page(subject.outputs.files["trajectory.html"])
    assert "".join(text for _, text in page.tokens) == prompt + gap + suffix
