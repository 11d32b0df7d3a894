"""The sampler that `evaluation=advise` found: what `sampler=advised` builds."""

from pathlib import Path

from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.predicted import read_advice
from mdm_lightning.sampling.sampler import Sampler


def advised_sampler(path: str | None, steps: int) -> Sampler:
    """The sampler that an advice file holds for a step budget, with its order, count, schedule and all the rest.

    The file may come from somebody else: what it names is built as other stored configurations are.

    Args:
        path: the ``advice.json`` that evaluation=advise wrote.
        steps: the step budget.

    Raises:
        UserError: there is no such file, it knows nothing of this budget, or it names something that is not built.
    """
    advice = read_advice(path, steps, "sampler=advised")
    if "sampler" not in advice:
        raise UserError(
            f"advice={path} has no sampler for {steps} steps: it was not checked, or a part of it cannot be stored"
        )
    return build(advice["sampler"], Sampler, Path(str(path)))
