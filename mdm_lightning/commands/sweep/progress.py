"""Progress over a whole sweep: cells done, time left, the best so far per step budget."""

from tqdm import tqdm

from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.records import Cell


class SweepProgress:
    """A bar.

    Args:
        cells: how many there are; None if nobody knows.
        hidden: show nothing.
    """

    def __init__(self, cells: int | None, *, hidden: bool = False) -> None:
        self._bar = tqdm(total=cells, desc="sweep", unit="cell", dynamic_ncols=True, disable=hidden)
        self._best: dict[tuple[str, int | None], tuple[float, str]] = {}

    def grow(self, cells: int) -> None:
        if self._bar.total is not None:
            self._bar.total += cells
            self._bar.refresh()

    def advance(self, cell: Cell, row: Row | None) -> None:
        if self._bar.disable:
            return
        if cell.error is not None:
            self._bar.write(f"{cell.label}, {cell.steps} steps failed: {cell.error}")
        elif row is not None and cell.stage != "race":  # whose rounds have different instances
            sign = 1 if row.better == "higher" else -1
            budget = cell.stage, cell.steps
            known = self._best.get(budget)
            if known is None or sign * row.value > sign * known[0]:
                self._best[budget] = row.value, cell.label
            value, label = self._best[budget]
            self._bar.set_postfix_str(f"best at {cell.steps} steps: {label} {value:.4g}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
