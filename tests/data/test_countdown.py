import itertools
import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.countdown import Countdown, evaluate
from mdm_lightning.errors import UserError

CORRECT, WRONG, MALFORMED = Verdict(True, True), Verdict(True, False), Verdict(False, False)


def python_value(expression: str) -> Fraction:
    """Python's own arithmetic on fractions; only for expressions that this test makes."""
    return eval(re.sub(r"\d+", lambda number: f"Fraction({number.group()})", expression), {"Fraction": Fraction})


def random_expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return str(rng.randint(0, 20))
    left, right = random_expression(rng, depth - 1), random_expression(rng, depth - 1)
    inner = f"{left}{rng.choice('+-*/')}{right}"
    return f"({inner})" if rng.random() < 0.5 else inner


def test_values_are_exact_and_precedence_is_usual():
    rng = random.Random(0)
    divided_by_zero = 0
    for _ in range(3000):
        expression = random_expression(rng, 4)
        try:
            expected = python_value(expression)
        except ZeroDivisionError:
            divided_by_zero += 1
            with pytest.raises(ZeroDivisionError):
                evaluate(expression)
            continue
        value, numbers = evaluate(expression)
        assert value == expected
        assert numbers == [int(number) for number in re.findall(r"\d+", expression)]
    assert divided_by_zero > 10


@pytest.mark.parametrize(
    "text",
    ["", "+", "1+", "-1", "1 + 2", "(1", "1)", "()", "1(2)", "(1)2", "1**2", "1//2", "01", "1.5", "x", "1░2", "²"],
)
def test_what_is_no_expression(text):
    with pytest.raises(ValueError, match=r"expected|unexpected|unclosed"):
        evaluate(text)


@pytest.fixture(scope="module", params=[2, 4, 6])
def prepared(request, tmp_path_factory):
    task = Countdown(numbers=request.param, train=400, validation=100)
    return task, task.prepare(None, tmp_path_factory.mktemp("countdown"))


def rows(data, split: str) -> list[list[int]]:
    sequences = getattr(data, split)
    return sequences.__getitems__(list(range(len(sequences))))["tokens"].tolist()


def test_examples_are_correct(prepared):
    task, data = prepared
    for row in rows(data, "train") + rows(data, "validation"):
        assert task.check(row) == CORRECT
        prompt, response = data.tokenizer.decode(row).split("=")
        given, target = prompt.split(":")
        assert python_value(response) == int(target)
        assert Counter(re.findall(r"\d+", response)) == Counter(given.split(","))


def test_responses_end_with_eos_and_pad(prepared):
    task, data = prepared
    tokenizer = data.tokenizer
    for row in rows(data, "train"):
        response = row[task.prompt_length :]
        end = response.index(tokenizer.eos_id)
        assert set(response[end + 1 :]) <= {tokenizer.pad_id}
        assert not {tokenizer.eos_id, tokenizer.pad_id} & set(response[:end])
        start = sum(token == tokenizer.pad_id for token in row[: task.prompt_length])
        assert set(row[:start]) <= {tokenizer.pad_id}
        assert tokenizer.decode(row[start : task.prompt_length]).endswith("=")
    maskable = data.train[0]["maskable"].tolist()
    assert maskable == [False] * task.prompt_length + [True] * task.response_length


def with_response(task: Countdown, row: list[int], response: str, ending: str = "eos") -> list[int]:
    tokenizer = task.tokenizer
    ids = [*tokenizer.encode(response), getattr(tokenizer, f"{ending}_id")]
    return (row[: task.prompt_length] + ids + [tokenizer.pad_id] * task.length)[: task.length]


def solvable(numbers: tuple[Fraction, ...], target: int) -> bool:
    """Brute force over every way to combine two of the numbers."""
    if target in numbers:
        return True
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        results = [a + b, a * b, a - b] + ([a / b] if b else [])
        if any(solvable((*rest, result), target) for result in results):
            return True
    return False


def test_check_by_hand():
    task = Countdown(numbers=3, train=1, validation=1)
    tokenizer = task.tokenizer
    prompt = tokenizer.encode("3,3,8:24=")
    row = [tokenizer.pad_id] * (task.prompt_length - len(prompt)) + prompt
    verdicts = {
        "3*8": CORRECT,
        "8*3": CORRECT,
        "(3)*8": CORRECT,
        "8/(1/3)": WRONG,  # a number that is not given
        "3*3+8": WRONG,
        "8+8+8": WRONG,  # used more often than given
        "24": WRONG,
        "8/(3-3)": WRONG,
        "3*8)": MALFORMED,
        "": MALFORMED,
        "3*8=": MALFORMED,
        "3,8": MALFORMED,
    }
    for response, verdict in verdicts.items():
        assert task.check(with_response(task, row, response)) == verdict, response
    assert task.check(with_response(task, row, "3*8", ending="pad")) == CORRECT
    assert task.check(with_response(task, row, "3*8", ending="mask")) == MALFORMED


def test_exact_fractions_count():
    """8 / (3 - 8 / 3) = 24 is the only kind of solution of 3, 3, 8, 8, and no floating point finds it."""
    task = Countdown(numbers=4, train=1, validation=1)
    tokenizer = task.tokenizer
    prompt = tokenizer.encode("3,3,8,8:24=")
    row = [tokenizer.pad_id] * (task.prompt_length - len(prompt)) + prompt
    assert task.check(with_response(task, row, "8/(3-8/3)")) == CORRECT
    assert solvable((Fraction(3), Fraction(3), Fraction(8), Fraction(8)), 24)


def test_check_accepts_only_what_brute_force_reaches():
    """Random expressions of given numbers: whatever is judged correct, brute force can reach too, and conversely."""
    task = Countdown(numbers=3, train=1, validation=1)
    rng = random.Random(1)
    correct = 0
    for _ in range(2000):
        given = [rng.randint(1, 6) for _ in range(3)]
        a, b, c = rng.sample(given, 3)
        x, y = rng.choices("+-*/", k=2)
        response = rng.choice([f"{a}{x}{b}{y}{c}", f"({a}{x}{b}){y}{c}", f"{a}{x}({b}{y}{c})", f"{a}{x}{b}"])
        target = rng.randint(1, 12)
        ids = task.tokenizer.encode(f"{','.join(map(str, given))}:{target}=")
        row = [task.tokenizer.pad_id] * (task.prompt_length - len(ids)) + ids
        verdict = task.check(with_response(task, row, response))
        try:
            expected = python_value(response) == target
        except ZeroDivisionError:
            expected = False
        assert verdict == Verdict(True, expected)
        if expected:
            correct += 1
            assert solvable(tuple(map(Fraction, given)), target)
    assert correct > 50


def test_splits_share_no_puzzle_in_any_order(tmp_path):
    # Two small numbers make few puzzles, so that the same ones come up again and again.
    task = Countdown(numbers=2, max_number=12, train=3000, validation=300)
    data = task.prepare(None, tmp_path)

    def puzzles(split: str) -> set[tuple]:
        prompts = [data.tokenizer.decode(row[: task.prompt_length]).rstrip("=") for row in rows(data, split)]
        return {(*sorted(p.split(":")[0].split(",")), p.split(":")[1]) for p in prompts}

    assert len(puzzles("train")) > 50
    assert puzzles("validation")
    assert not puzzles("train") & puzzles("validation")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"numbers": 1}, "2 to 8"), ({"max_target": 5}, "at least 10"), ({"train": 0}, "at least 1")],
)
def test_bad_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        Countdown(**keywords)
