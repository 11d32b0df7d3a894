import itertools
import random

import pytest
import torch

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.sudoku import Sudoku
from mdm_lightning.data.tokenizer.spec import ByteLevel, FromTask
from mdm_lightning.errors import UserError

CORRECT, WRONG, MALFORMED = Verdict(True, True), Verdict(True, False), Verdict(False, False)


def respects_rules(grid: str, box: int) -> bool:
    side = box * box
    for i, j in itertools.combinations(range(side * side), 2):
        same_line = i // side == j // side or i % side == j % side
        same_box = (i // side // box, i % side // box) == (j // side // box, j % side // box)
        if (same_line or same_box) and grid[i] == grid[j] != ".":
            return False
    return True


def every_solution(grid: str, box: int) -> list[str]:
    """Brute force: the first blank takes every digit in turn."""
    blank = grid.find(".")
    if blank < 0:
        return [grid]
    tried = (grid[:blank] + digit + grid[blank + 1 :] for digit in "123456789"[: box * box])
    return [found for trial in tried if respects_rules(trial, box) for found in every_solution(trial, box)]


def clues_and_solutions(task: Sudoku, tmp_path, split: str = "train") -> list[tuple[str, str]]:
    data = task.prepare(FromTask(), tmp_path)
    sequences = getattr(data, split)
    rows = [data.tokenizer.decode(row) for row in sequences.__getitems__(list(range(len(sequences))))["tokens"]]
    return [(row.split("=")[0], row.split("=")[1]) for row in rows]


@pytest.mark.parametrize("clues", [4, 6, 12])
def test_small_puzzles_have_one_solution(clues, tmp_path):
    task = Sudoku(box=2, clues=clues, train=60, validation=20, variants=3)
    for split in ("train", "validation"):
        for puzzle, solution in clues_and_solutions(task, tmp_path, split):
            assert len(puzzle.replace(".", "")) == clues
            assert every_solution(puzzle, 2) == [solution]


def test_puzzles_have_one_solution(tmp_path):
    # Many clues, so that brute force ends.
    for puzzle, solution in clues_and_solutions(Sudoku(clues=50, train=8, validation=2, variants=2), tmp_path):
        assert len(puzzle.replace(".", "")) == 50
        assert every_solution(puzzle, 3) == [solution]


def test_usual_number_of_clues(tmp_path):
    task = Sudoku(train=30, validation=5)
    for split in ("train", "validation"):
        for puzzle, solution in clues_and_solutions(task, tmp_path, split):
            assert len(puzzle.replace(".", "")) == 32
            assert respects_rules(solution, 3)
            assert all(clue in (".", cell) for clue, cell in zip(puzzle, solution, strict=True))


@pytest.mark.parametrize(("box", "clues"), [(2, 6), (3, 60)])
def test_check_is_by_rule(box, clues, tmp_path):
    task = Sudoku(box=box, clues=clues, train=20, validation=20)
    data = task.prepare(None, tmp_path)
    rng = random.Random(0)
    for index in range(20):
        row = data.validation[index]["tokens"]
        assert task.check(row) == CORRECT
        assert task.check(row.tolist()) == CORRECT
        for _ in range(20):
            changed = row.clone()
            cells = [rng.randrange(task.prompt_length, task.length) for _ in range(rng.randint(1, 3))]
            changed[cells] = torch.tensor([rng.randrange(box * box) for _ in cells])
            puzzle, solution = data.tokenizer.decode(changed).split("=")
            agrees = all(clue in (".", cell) for clue, cell in zip(puzzle, solution, strict=True))
            assert task.check(changed) == Verdict(True, agrees and respects_rules(solution, box))


def test_a_solution_of_other_clues_is_wrong(tmp_path):
    task = Sudoku(box=2, clues=8, train=1, validation=2)
    rows = task.prepare(None, tmp_path).validation.__getitems__([0, 1])["tokens"]
    rows[0, task.prompt_length :] = rows[1, task.prompt_length :]
    assert task.check(rows[1]) == CORRECT
    assert task.check(rows[0]) == WRONG


def test_malformed_responses(tmp_path):
    task = Sudoku(box=2, train=1, validation=1, clues=6)
    data = task.prepare(None, tmp_path)
    for token in (data.tokenizer.mask_id, data.tokenizer.eos_id, data.tokenizer.pad_id, *data.tokenizer.encode(".=�")):
        row = data.validation[0]["tokens"].clone()
        row[-3] = token
        assert task.check(row) == MALFORMED
    with pytest.raises(UserError, match="33 tokens, not 32"):
        task.check(data.validation[0]["tokens"][1:])


def test_only_the_response_is_maskable(tmp_path):
    data = Sudoku(box=2, train=5, validation=5, clues=6).prepare(None, tmp_path)
    batch = data.train.__getitems__([0, 3])
    assert batch["maskable"].tolist() == [[False] * 17 + [True] * 16] * 2
    assert data.length == 33
    assert data.bytes_per_position is None
    assert data.task is not None
    assert data.task.check(data.train[3]["tokens"]) == CORRECT


@pytest.mark.parametrize("clues", [4, 8])
def test_splits_share_no_puzzle(clues, tmp_path):
    task = Sudoku(box=2, clues=clues, train=3000, validation=300, variants=5)
    train = {puzzle for puzzle, _ in clues_and_solutions(task, tmp_path)}
    validation = {puzzle for puzzle, _ in clues_and_solutions(task, tmp_path, "validation")}
    assert len(train) > 500
    assert len(validation) > 50
    assert not train & validation


def test_examples_are_a_function_of_the_seed(tmp_path):
    def rows(folder: str, **keywords) -> torch.Tensor:
        setting = {"box": 2, "clues": 6, "train": 20, "validation": 5} | keywords
        return Sudoku(**setting).prepare(None, tmp_path / folder).train.__getitems__(list(range(20)))["tokens"]

    assert torch.equal(rows("a"), rows("b"))
    assert not torch.equal(rows("a"), rows("a", seed=1))
    # More examples begin with the same ones.
    assert torch.equal(rows("a"), rows("a", train=30))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"box": 4}, "data.box=4"),
        ({"clues": 16}, "23 to 80"),
        ({"box": 2, "clues": 3}, "4 to 15"),
        ({"train": 0}, "at least 1"),
        ({"variants": 0}, "data.variants"),
    ],
)
def test_bad_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        Sudoku(**keywords)


def test_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="brings its own tokenizer"):
        Sudoku(box=2, clues=6).prepare(ByteLevel(), tmp_path)
