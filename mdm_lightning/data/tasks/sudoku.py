"""Sudoku: complete a grid of clues that has exactly one solution."""

import random
from collections.abc import Iterator, Sequence

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.base import TaskSource, held_out
from mdm_lightning.errors import UserError

BLANK = "."
SEPARATOR = "="
_VERSION = 1
# Random digging reaches fewer clues so seldom that generation would seem to hang.
_FEWEST_CLUES = {2: 4, 3: 23}


class Sudoku(TaskSource):
    """Grids of digits row by row: the clues with "." for blanks, "=", then the solution.

    Every puzzle has exactly one solution. `variants` training puzzles at a time are the same one under the symmetries
    of sudoku (digits relabelled, rows, columns, bands and stacks permuted, transposed), which cost next to nothing;
    validation puzzles are all found anew.

    Args:
        box: 3 for 9x9 grids, 2 for 4x4.
        clues: given digits per puzzle.
    """

    def __init__(
        self,
        *,
        box: int = 3,
        clues: int = 32,
        train: int = 50_000,
        validation: int = 1_000,
        variants: int = 10,
        seed: int = 0,
    ) -> None:
        if box not in _FEWEST_CLUES:
            raise UserError(f"data.box={box} should be 2 (4x4 grids) or 3 (9x9 grids)")
        cells = box**4
        if not _FEWEST_CLUES[box] <= clues < cells:
            raise UserError(f"data.clues={clues} should be {_FEWEST_CLUES[box]} to {cells - 1} with data.box={box}")
        if variants < 1:
            raise UserError(f"data.variants={variants} should be at least 1")
        super().__init__(prompt_length=cells + 1, response_length=cells, train=train, validation=validation, seed=seed)
        self.rules = Rules(box)
        self.name = "sudoku" if box == 3 else "sudoku_4x4"
        self.clues = clues
        self.variants = variants
        self.alphabet = "123456789"[: self.rules.side] + BLANK + SEPARATOR

    def settings(self) -> list[object]:
        return ["sudoku", _VERSION, self.rules.box, self.clues, self.variants]

    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        while True:
            solution = self.rules.random_solution(rng)
            puzzle = self.rules.dig(solution, self.clues, rng)
            if puzzle is None:
                continue
            for _ in range(1 if validation else self.variants):
                prompt, response = self._version(puzzle, solution, rng)
                while held_out(prompt) != validation:
                    prompt, response = self._version(puzzle, solution, rng)
                yield prompt + SEPARATOR, response

    def judge(self, prompt: str, response: str) -> Verdict:
        valid = len(response) == self.rules.cells and set(response) <= set(self.alphabet[: self.rules.side])
        if not valid:
            return Verdict(valid=False, correct=False)
        agrees = all(clue in (BLANK, cell) for clue, cell in zip(prompt[:-1], response, strict=True))
        complete = all(len({response[i] for i in unit}) == self.rules.side for unit in self.rules.units())
        return Verdict(valid=True, correct=agrees and complete)

    def _version(self, puzzle: list[int], solution: list[int], rng: random.Random) -> tuple[str, str]:
        """A puzzle and its solution under a random symmetry, as text."""
        order = self.rules.random_symmetry(rng)
        digits = rng.sample(self.alphabet[: self.rules.side], self.rules.side)
        prompt = "".join(digits[puzzle[i].bit_length() - 1] if puzzle[i] else BLANK for i in order)
        return prompt, "".join(digits[solution[i].bit_length() - 1] for i in order)


class Rules:
    """The geometry of a grid of box x box boxes, and a backtracking solver on bit masks.

    A cell holds a power of two for a digit and 0 for a blank.
    """

    def __init__(self, box: int) -> None:
        self.box = box
        self.side = box * box
        self.cells = self.side * self.side
        self._every_digit = (1 << self.side) - 1
        self._row = [i // self.side for i in range(self.cells)]
        self._column = [i % self.side for i in range(self.cells)]
        self._box = [r // box * box + c // box for r, c in zip(self._row, self._column, strict=True)]

    def units(self) -> list[list[int]]:
        """The cells of every row, column and box."""
        kinds = (self._row, self._column, self._box)
        return [[i for i in range(self.cells) if kind[i] == n] for kind in kinds for n in range(self.side)]

    def random_solution(self, rng: random.Random) -> list[int]:
        """A full grid."""
        grid = [0] * self.cells
        self._fill(grid, list(range(self.cells)), self._used(grid), rng)
        return grid

    def random_symmetry(self, rng: random.Random) -> list[int]:
        """Which old cell each new cell takes: bands, stacks, rows and columns permuted, perhaps transposed."""
        rows, columns = self._shuffled_lines(rng), self._shuffled_lines(rng)
        if rng.random() < 0.5:
            return [c * self.side + r for r in rows for c in columns]
        return [r * self.side + c for r in rows for c in columns]

    def dig(self, solution: Sequence[int], clues: int, rng: random.Random) -> list[int] | None:
        """Blank cells of a solution in random order while it stays the only one; None if too many clues remain."""
        grid = list(solution)
        used = self._used(grid)
        left = self.cells
        for cell in rng.sample(range(self.cells), self.cells):
            if left == clues:
                return grid
            digit, grid[cell] = grid[cell], 0
            self._toggle(used, cell, digit)
            if self._has_other(grid, used, cell, digit):
                grid[cell] = digit
                self._toggle(used, cell, digit)
            else:
                left -= 1
        return grid if left == clues else None

    def _has_other(self, grid: list[int], used: list[list[int]], cell: int, digit: int) -> bool:
        """Whether some completion has another digit in a cell that was just blanked: all other solutions do."""
        others = self._candidates(used, cell) & ~digit
        blanks = [i for i, value in enumerate(grid) if not value and i != cell]
        while others:
            other = others & -others
            others ^= other
            trial = [list(lines) for lines in used]
            self._toggle(trial, cell, other)
            if self._fill(list(grid), list(blanks), trial, None):
                return True
        return False

    def _fill(self, grid: list[int], blanks: list[int], used: list[list[int]], rng: random.Random | None) -> bool:
        """Complete a grid in place, most constrained cell first; False, and everything as before, if it cannot be."""
        # The inner loop of all generation: calls of small methods would double its time.
        rows, columns, boxes = used
        row, column, box, every_digit = self._row, self._column, self._box, self._every_digit
        fewest, chosen, candidates = self.side + 1, -1, 0
        for k, cell in enumerate(blanks):
            mask = every_digit & ~(rows[row[cell]] | columns[column[cell]] | boxes[box[cell]])
            if (count := mask.bit_count()) < fewest:
                fewest, chosen, candidates = count, k, mask
                if count < 2:
                    break
        if chosen < 0:
            return True
        if not fewest:
            return False
        cell, blanks[chosen] = blanks[chosen], blanks[-1]
        blanks.pop()
        r, c, b = row[cell], column[cell], box[cell]
        digits = [1 << n for n in range(self.side) if candidates >> n & 1]
        if rng is not None:
            rng.shuffle(digits)
        for digit in digits:
            grid[cell] = digit
            rows[r], columns[c], boxes[b] = rows[r] | digit, columns[c] | digit, boxes[b] | digit
            if self._fill(grid, blanks, used, rng):
                return True
            rows[r], columns[c], boxes[b] = rows[r] ^ digit, columns[c] ^ digit, boxes[b] ^ digit
        grid[cell] = 0
        blanks.append(cell)
        blanks[chosen], blanks[-1] = blanks[-1], blanks[chosen]
        return False

    def _used(self, grid: Sequence[int]) -> list[list[int]]:
        """Digits that are taken, per row, column and box."""
        used = [[0] * self.side for _ in range(3)]
        for cell, digit in enumerate(grid):
            self._toggle(used, cell, digit)
        return used

    def _toggle(self, used: list[list[int]], cell: int, digit: int) -> None:
        used[0][self._row[cell]] ^= digit
        used[1][self._column[cell]] ^= digit
        used[2][self._box[cell]] ^= digit

    def _candidates(self, used: list[list[int]], cell: int) -> int:
        rows, columns, boxes = used
        return self._every_digit & ~(rows[self._row[cell]] | columns[self._column[cell]] | boxes[self._box[cell]])

    def _shuffled_lines(self, rng: random.Random) -> list[int]:
        bands = rng.sample(range(self.box), self.box)
        return [band * self.box + line for band in bands for line in rng.sample(range(self.box), self.box)]
