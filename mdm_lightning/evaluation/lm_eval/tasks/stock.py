"""Few-shot examples of lm-eval's own tasks, read from its source: importing it would download metrics."""

import ast
from importlib.resources import files
from typing import Any

from mdm_lightning.errors import UserError

_NAME = "list_fewshot_samples"


def mbpp_examples() -> list[dict[str, Any]]:
    """MBPP's tasks 2, 3 and 4, with ``is_fewshot``."""
    return _examples("mbpp")


def minerva_examples() -> list[dict[str, Any]]:
    """The four worked problems of Lewkowycz et al. 2022, with ``few_shot``."""
    return _examples("minerva_math")


def _examples(family: str) -> list[dict[str, Any]]:
    """Raises:
    UserError: this version of lm-eval has them elsewhere.
    """
    try:
        source = files("lm_eval").joinpath("tasks", family, "utils.py").read_text(encoding="utf-8")
        (function,) = (
            node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == _NAME
        )
        (value,) = (node.value for node in function.body if isinstance(node, ast.Return) and node.value)
        return ast.literal_eval(value)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot find the few-shot examples of {family} in this version of lm-eval: "
            'pip install "mdm-lightning[lm-eval]"'
        ) from error
