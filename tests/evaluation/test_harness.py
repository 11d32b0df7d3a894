"""lm-eval's requests: what is asked of the model, and what becomes of its answers."""

import math

import pytest
from lm_eval.api.instance import Instance

from mdm_lightning.data.text.pairs import Pair, PairFormat
from mdm_lightning.data.tokenizer.context import encode_pairs
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.conditional import ConditionalLikelihood
from mdm_lightning.evaluation.lm_eval.model import MaskedDiffusionLM
from mdm_lightning.sampling.count import Binomial
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler
from tests.tokenizer_families import ALL, LOSSLESS

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
TOKENIZER = Tokenizer(
    from_characters("abcdxy .<>au", special=["<|endoftext|>", "<|bos|>"]),
    bos_token="<|bos|>",
    eos_token="<|endoftext|>",
    chat_template=TEMPLATE,
)
ANCESTRAL = Sampler(BetaSchedule(0.9, 0.3), Binomial(), Random(), steps=5)


def no_data():
    raise AssertionError("requests need no data")


def subject(*distribution: str, seed: int = 0) -> Subject:
    """The exact denoiser of the uniform distribution on some texts of one length; "$" stands for EOS."""
    ids = [TOKENIZER.encode(text.replace("$", "<|endoftext|>"), special=True) for text in distribution]
    denoiser = ExactDenoiser(ids, vocab_size=TOKENIZER.vocab_size)
    return Subject(denoiser, TOKENIZER, denoiser.length, no_data, seed=seed)


def model(on: Subject, **options) -> MaskedDiffusionLM:
    return MaskedDiffusionLM(on, ANCESTRAL, ConditionalLikelihood(), **options)


def ask(kind: str, *arguments: tuple, task: str = "task") -> list[Instance]:
    return [Instance(kind, {}, each, i, (task, i, 1)) for i, each in enumerate(arguments)]


def generate(on: Subject, *prompts: str, until=(), length: int = 3, **options) -> list[str]:
    settings = {"until": list(until) if not isinstance(until, str) else until}
    requests = ask("generate_until", *((prompt, settings) for prompt in prompts))
    return model(on, generation_length=length, **options).generate_until(requests)


def test_answers_follow_their_prompts():
    assert generate(subject("abxy", "bayx"), "a", "b", "a") == ["bxy", "ayx", "bxy"]


@pytest.mark.parametrize(
    ("until", "answer"),
    [((), "b.x"), ((".",), "b"), (("x", "."), "b"), ("b", ""), (("y",), "b.x"), (("", "."), "b")],
)
def test_answers_end_at_the_first_stop(until, answer):
    assert generate(subject("ab.x"), "a", until=until) == [answer]


def test_answers_end_at_the_end_of_text():
    """Before the stop strings are looked for: what comes after the end is no answer."""
    assert generate(subject("ab$."), "a", until=(".",)) == ["b"]
    assert generate(subject("a$xy"), "a") == [""]


def test_the_tasks_length_is_the_default():
    requests = ask("generate_until", ("a", {"until": [], "max_gen_toks": 3}))
    assert model(subject("abxy")).generate_until(requests) == ["bxy"]


def test_long_prompts_lose_their_beginning_and_are_counted():
    lm = model(subject("abxy"), generation_length=3)
    assert lm.generate_until(ask("generate_until", ("dddda", {}), ("a", {}))) == ["bxy", "bxy"]
    assert lm.tally.truncated == 1
    with pytest.raises(UserError, match=r"generation_length=4 leaves no room .* length 4"):
        model(subject("abxy"), generation_length=4).generate_until(ask("generate_until", ("a", {})))


def test_noise_is_that_of_the_request():
    """In whatever company; equal requests differ among themselves, for a task may want several answers."""
    distribution = [f"a{x}{y}{z}" for x in "abcd" for y in "abcd" for z in "abcd"]
    alone = generate(subject(*distribution), "a")
    assert generate(subject(*distribution), "a", batch_size=1) == alone
    assert generate(subject(*distribution), "b", "a", "a")[1] == alone[0]
    repeated = generate(subject(*distribution), *["a"] * 12)
    assert repeated[0] == alone[0]
    assert len(set(repeated)) > 4
    assert (
        generate(
            subject(
                *distribution,
            ),
            *["a"] * 12,
        )
        == repeated
    )
    assert generate(subject(*distribution, seed=1), *["a"] * 12) != repeated


def likelihoods(on: Subject, *pairs: tuple[str, str], **options) -> list[tuple[float, bool]]:
    return model(on, greedy_tasks={"task"}, **options).loglikelihood(ask("loglikelihood", *pairs))


def test_likelihoods_are_those_of_the_distribution():
    """Of whole texts and of parts given parts; greedy is what the distribution makes most probable."""
    on = subject("abxy", "abxx", "abxx", "bayx")
    pairs = [("", "abxy"), ("ab", "xy"), ("abx", "x"), ("a", "bxx"), ("b", "ayx")]
    found = likelihoods(on, *pairs)
    expected = [1 / 4, 1 / 3, 2 / 3, 2 / 3, 1]
    assert [value for value, _ in found] == pytest.approx([math.log(p) for p in expected], abs=1e-5)
    assert [same for _, same in found] == [False, False, True, True, True]


def test_only_tasks_that_ask_for_greedy_answers_get_them():
    on = subject("abxy")
    assert [same for _, same in model(on).loglikelihood(ask("loglikelihood", ("ab", "xy")))] == [False]


@pytest.mark.parametrize(
    ("context", "target", "parts"),
    [("a ", "bx", ["a ", "bx"]), ("a", " bx", ["a", " bx"]), ("", "bx", ["", "bx"]), ("ab", "", ["ab", ""])],
)
def test_characters_stay_on_their_side_of_the_seam(context, target, parts):
    """They are tokens for themselves; tests/data/test_context.py has the tokenizers that attach spaces to words."""
    pair = model(subject("abxy"))._encode_pair(context, target)
    assert [TOKENIZER.decode(part) for part in pair] == parts


HUMANEVAL = (
    'def has_close_elements(numbers, threshold):\n    """Check if two numbers are closer.\n    """\n',
    "    for idx, elem in enumerate(numbers):\n        for idx2, elem2 in enumerate(numbers):\n"
    "            if idx != idx2 and abs(elem - elem2) < threshold:\n                return True\n\n    return False\n",
)


def oracle(family, prompt: str, response: str) -> Subject:
    """Knows the response to a prompt, as training would tokenise it."""
    tokenizer = family()
    [(before, after)] = encode_pairs(tokenizer, [prompt], [response])
    denoiser = ExactDenoiser([[*before, *after, tokenizer.eos_id]], vocab_size=tokenizer.vocab_size)
    return Subject(denoiser, tokenizer, denoiser.length, no_data)


@pytest.mark.parametrize("family", LOSSLESS.values(), ids=LOSSLESS)
@pytest.mark.parametrize(
    ("prompt", "solution"),
    [
        HUMANEVAL,
        (HUMANEVAL[0] + "    ", HUMANEVAL[1][4:]),
        ("Answer: ", "é 日本"),
        ("Answer:", " 12"),
        ("1 + 1 =", "2"),
    ],
)
def test_a_perfect_model_gives_the_exact_solution(family, prompt, solution):
    on = oracle(family, prompt, solution)
    length = on.length - len(model(on)._encode(prompt))
    answers = generate(on, prompt, until=("\ndef", "\nclass"), length=length)
    assert answers == [solution]
    if prompt.startswith("def"):
        defined: dict = {}
        exec(prompt + answers[0], defined)
        assert defined["has_close_elements"]([1.0, 2.0, 2.1], 0.2)


@pytest.mark.parametrize("family", ALL.values(), ids=ALL)
@pytest.mark.parametrize("prompt", ["what:", "what: ", "what:\n"])
def test_training_sampling_and_likelihood_have_the_same_tokens(family, prompt):
    """Also where a prompt ends in white space."""
    for response in ("yes", "    no", "\nmaybe"):
        lm = model(oracle(family, prompt, response))
        [trained] = PairFormat(family()).encode([Pair(prompt, response)])
        assert lm._encode_pair(prompt, response) == trained
        assert lm._encode(prompt) == trained[0]


def test_nothing_asked_is_certain():
    assert likelihoods(subject("abxy"), ("ab", ""), ("abx", "y")) == [(0.0, True), (pytest.approx(0, abs=1e-6), True)]


def test_texts_are_scored_in_pieces_that_fit():
    """Of pieces the distribution knows nothing; their bounds add up, and are counted as cut."""
    lm = model(subject("abxy", "bayx"))
    whole, cut = lm.loglikelihood_rolling(ask("loglikelihood_rolling", ("abxy",), ("abxyabxy",)))
    assert whole == pytest.approx(math.log(1 / 2), abs=1e-5)
    assert cut < whole
    assert lm.tally.truncated == 1


def test_bos_in_front():
    lm = model(subject("abxy"), add_bos=True)
    assert lm._encode("ab") == [TOKENIZER.bos_id, *TOKENIZER.encode("ab")]
    assert [len(part) for part in lm._encode_pair("a", "b")] == [2, 1]
    assert [len(part) for part in lm._encode_pair("", "b")] == [1, 1]


def test_chats():
    """With the generation prompt, or up to the end of a message that is to go on; special tokens are recognised."""
    lm = model(subject("abxy"), chat=True)
    history = [{"role": "user", "content": "ab"}]
    assert lm.apply_chat_template(history) == "<u>ab<a>"
    begun = [*history, {"role": "assistant", "content": "x "}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "<u>ab<a>x "
    trimming = TEMPLATE.replace("m['content']", "m['content'] | trim")
    lm.subject.tokenizer = Tokenizer.from_state(TOKENIZER.state() | {"chat_template": trimming})
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "<u>ab<a>x"
    assert lm._encode("a<|endoftext|>")[-1] == TOKENIZER.eos_id
    assert TOKENIZER.eos_id not in model(subject("abxy"))._encode("a<|endoftext|>")


def test_every_request_of_a_repeat_counts():
    """What generating cost is that of all answers."""
    lm = model(subject("abxy"), generation_length=3)
    lm.generate_until(ask("generate_until", *[("a", {})] * 7))
    assert len(lm.tally.completions) == 7
    assert all(1 <= completion.nfe <= 5 for completion in lm.tally.completions)
