"""Our versions of lm-eval's tasks: the stock protocol, and scores that are those of the answers."""

import ast
import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.lm_eval import tasks as harness_tasks
from mdm_lightning.evaluation.sandbox.runner import ProgramRunner, allowing, pass_at_k

pytest.importorskip("lm_eval")
pytest.importorskip("math_verify")

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mdm_lightning.evaluation.lm_eval.tasks import stock
from mdm_lightning.evaluation.lm_eval.tasks.code_answers import fenced_code
from tests.patience import SECONDS

OURS = Path(harness_tasks.__file__).parent
STOCK = Path(str(files("lm_eval"))) / "tasks"
RUNNER = ProgramRunner(seconds=300, wall_seconds=SECONDS)
PROTOCOL = {
    "task",
    "group",
    "dataset_path",
    "dataset_name",
    "output_type",
    "test_split",
    "doc_to_text",
    "doc_to_target",
    "target_delimiter",
    "gen_prefix",
    "generation_kwargs",
    "repeats",
    "num_fewshot",
}
Rows = list[dict[str, Any]]


class Parrot(LM):
    """Says what it has been given to say, a response to each request in turn."""

    def __init__(self, responses: list[str]) -> None:
        super().__init__()
        self.left = list(responses)
        self.prompts: list[str] = []

    def generate_until(self, requests, disable_tqdm=False):
        self.prompts += [request.args[0] for request in requests]
        return [self.left.pop(0) for _ in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


@pytest.fixture
def load(tmp_path) -> Callable[..., Any]:
    """Loads tasks, or a group of theirs, with rows of a local file as the only data of each."""

    def load(rows: dict[str, Rows], group: str | None = None, **changes: object) -> Any:
        manager = TaskManager(include_path=OURS, include_defaults=False)
        for name, some in rows.items():
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in some))
            local = {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "cache")}
            changes |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": local}
            entry = manager.task_index[name]
            assert entry.yaml_path is not None
            changed = {**load_yaml(entry.yaml_path), **changes}
            manager.task_index[name] = dataclasses.replace(entry, yaml_path=None, cfg=changed)
        return manager.load(group or list(rows))

    return load


def answer(loaded: Any, responses: list[str]) -> tuple[dict[str, Any], Parrot]:
    """Results of the tasks and of their group."""
    model = Parrot(responses)
    with allowing(RUNNER.run_all):
        results = evaluate(model, loaded, bootstrap_iters=0, confirm_run_unsafe_code=True)
    assert results is not None
    assert not model.left
    return results["results"], model


def config(path: Path) -> dict[str, Any]:
    return load_yaml(path, resolve_func=False)


OUR_FILES = sorted(OURS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", OUR_FILES, ids=lambda path: path.stem)
def test_the_protocol_is_the_stock_one(path):
    """What is a function there is a template here, and is compared below."""
    theirs = STOCK / path.parent.name / path.name
    ours, theirs = config(path), config(theirs if theirs.exists() else STOCK / "benchmarks" / path.name)
    for key in PROTOCOL - {"doc_to_text"}:
        default = 0 if key == "num_fewshot" else 1 if key == "repeats" else None
        assert ours.get(key, default) == theirs.get(key, default), key
    if "minerva" not in path.stem:
        assert ours.get("doc_to_text") == theirs.get("doc_to_text")
    assert ours.get("unsafe_code") == theirs.get("unsafe_code")
    assert ours["metadata"]["version"] == theirs["metadata"]["version"]
    assert arguments(ours) == arguments(theirs)


def arguments(config: dict[str, Any]) -> set[str]:
    """Of the metrics, other than names and what is done with the values."""
    return {str(metric.get("k")) for metric in config.get("metric_list", [])}


def stock_function(family: str, name: str) -> Callable[..., Any]:
    """Executed on its own, without what its module does when it is imported."""
    source = (STOCK / family / "utils.py").read_text()
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    space: dict[str, Any] = {}
    exec(compile(ast.Module(found, []), family, "exec"), space)
    return space[name]


def test_few_shot_examples_are_the_stock_ones():
    assert stock.mbpp_examples() == stock_function("mbpp", "list_fewshot_samples")()
    assert stock.minerva_examples() == stock_function("minerva_math", "list_fewshot_samples")()


def test_few_shot_examples_that_have_moved(monkeypatch):
    monkeypatch.setattr(stock, "_NAME", "elsewhere")
    with pytest.raises(UserError, match="cannot find the few-shot examples of mbpp"):
        stock.mbpp_examples()


def test_ours_come_before_the_stock_ones():
    families = sorted({path.parent.name for path in OUR_FILES})
    manager = TaskManager(
        include_path=[*(STOCK / family for family in families), STOCK / "benchmarks", OURS], include_defaults=False
    )
    for path in OUR_FILES:
        assert manager.task_index[path.stem].yaml_path == path


ADD = {
    "task_id": "a",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    "entry_point": "add",
}
TWICE = {
    "task_id": "b",
    "prompt": "def twice(a):\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "twice",
}


def test_humaneval(load):
    responses = ["    return a + b", "    return a + a + 1"]
    results, model = answer(load({"humaneval": [ADD, TWICE]}), responses)
    assert results["humaneval"]["pass@1,create_test"] == 0.5
    assert model.prompts == [ADD["prompt"], TWICE["prompt"]]


def test_humaneval_with_repeats(load):
    """Two of four pass, and none of four: the mean of the unbiased estimates."""
    good, bad, early = "    return a + b", "    return a", "    raise SystemExit(0)"
    metric = {"metric": load_yaml(OURS / "humaneval/humaneval.yaml")["metric_list"][0]["metric"]}
    metric |= {"aggregation": "mean", "higher_is_better": True, "k": [1, 2, 4, 8]}
    loaded = load({"humaneval": [ADD, TWICE]}, repeats=4, metric_list=[metric])
    results, _ = answer(loaded, [good, bad, early, good, bad, early, bad, bad])
    scores = {key: value for key, value in results["humaneval"].items() if re.match(r"pass@\d+,", key)}
    expected = {f"pass@{k},create_test": (pass_at_k(4, 2, k) + pass_at_k(4, 0, k)) / 2 for k in (1, 2, 4)}
    assert scores == pytest.approx(expected)


def test_humaneval_instruct(load):
    responses = ["    return a + b\n```\nThis adds.", "    return 2 * a"]
    results, model = answer(load({"humaneval_instruct": [ADD, TWICE]}), responses)
    assert results["humaneval_instruct"]["pass@1,create_test"] == 1
    assert model.prompts[0].endswith(f"Here is the completed function:\n```python\n{ADD['prompt']}\n")


SQUARE = {
    "task_id": 7,
    "text": "Write a function to square.",
    "code": "def square(a):\r\n    return a * a",
    "test_list": ["assert square(1) == 1", "assert square(2) == 4", "assert square(-3) == 9"],
}


def test_mbpp(load):
    right, wrong = "def square(a):\n    return a * a\n", "def square(a):\n    return abs(a)\n"
    results, model = answer(load({"mbpp": [SQUARE] * 3}), [right, wrong, "import os; os._exit(0)"])
    assert results["mbpp"]["pass_at_1,none"] == pytest.approx(1 / 3)
    for example in stock.mbpp_examples():
        assert f"{example['test_list'][2]}\n[BEGIN]\n{example['code']}\n[DONE]\n\n" in model.prompts[0]
    assert model.prompts[0].endswith(
        "here is your task: Write a function to square. Your code should pass these "
        "tests:\n\nassert square(1) == 1\nassert square(2) == 4\nassert square(-3) == 9\n"
        "[BEGIN]\n"
    )


def test_mbpp_instruct(load):
    code = "def square(a):\n    return a * a"
    responses = [f"{code}\n```\nIt squares.", f"```python\n{code}\n```", "def square(a): return a\n```"]
    results, model = answer(load({"mbpp_instruct": [SQUARE] * 3}), responses)
    assert results["mbpp_instruct"]["pass_at_1,extract_code"] == pytest.approx(2 / 3)
    assert model.prompts[0].endswith("assert square(-3) == 9\n```python\n")


@pytest.mark.parametrize(
    "response",
    [
        "{}",
        "{}\n```",
        "{}\n```\nand\n```python\nother\n```",
        "```python\n{}\n```\nand\n```python\nother\n```",
        "```\n{}\n```",
        "Here it is:\n```python\n{}\n```\nand that is all.",
        "\n```py\n{}",
    ],
)
@pytest.mark.parametrize("code", ["def f(): pass", "import math\nx = 'python'", "python = 1"])
def test_code_within_fences(response, code):
    assert fenced_code(response.format(code)).strip() == code


@pytest.mark.parametrize(("name", "row"), [("humaneval", ADD), ("mbpp_instruct", SQUARE)])
def test_code_needs_a_confirmation(load, name, row):
    loaded = load({name: [row]})
    assert loaded["tasks"][name].UNSAFE_CODE
    with pytest.raises(UserError, match=r"evaluation\.allow_code_execution=true") as caught:
        evaluate(Parrot(["pass"]), loaded, bootstrap_iters=0, confirm_run_unsafe_code=True)
    assert "\n" not in str(caught.value)


SUBJECTS = ["algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalc"]
HALF = {"problem": "What is half of 1?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "1", "type": "x"}
PAIR = {"problem": "Which pair?", "solution": "Not $\\boxed{0}$ but $\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}.$"}


def final(text: str) -> str:
    return f" We see it.\nFinal Answer: The final answer is {text}. I hope it is correct.\n\n"


def test_minerva_math(load):
    """(as mathematics, as text) of each response, in the group's weighted mean."""
    cases = [
        (HALF, final("$\\frac{1}{2}$"), 1, 1),
        (HALF, final("$\\dfrac{1} {2}$"), 1, 1),
        (HALF, final("$0.5$"), 1, 0),
        (HALF, final("$2$"), 0, 0),
        (HALF, "So it is $\\boxed{\\frac12}$", 1, 0),
        (HALF, "I cannot tell.", 0, 0),
        (PAIR, final("$(3,\\frac{\\pi}{2})$"), 1, 1),
        (PAIR, final("$(3,\\pi/2)$"), 1, 0),
        (PAIR, final("$(\\pi/2, 3)$"), 0, 0),
    ]
    rows = {f"minerva_math_{subject}": [case[0]] for subject, case in zip(SUBJECTS, cases[2:], strict=True)}
    rows["minerva_math_algebra"] = [case[0] for case in cases[:3]]
    results, model = answer(load(rows, "minerva_math"), [case[1] for case in cases])
    for place, metric in ((2, "math_verify"), (3, "exact_match")):
        expected = [case[place] for case in cases]
        assert results["minerva_math_algebra"][f"{metric},none"] == pytest.approx(sum(expected[:3]) / 3)
        for subject, value in zip(SUBJECTS[1:], expected[3:], strict=True):
            assert results[f"minerva_math_{subject}"][f"{metric},none"] == value
        assert results["minerva_math"][f"{metric},none"] == pytest.approx(sum(expected) / len(cases))
    asked = stock_function("minerva_math", "doc_to_text")
    shown = [f"{asked(example)} {example['solution']}\n\n" for example in stock.minerva_examples()]
    assert model.prompts[0] == "".join(shown) + asked(HALF)


def test_hendrycks_math(load):
    cases = [
        (HALF, " $\\frac{1}{2}$", 1, 1),
        (HALF, " \\frac{1}{2}", 1, 1),
        (HALF, " 1/2", 1, 0),
        (HALF, " $\\boxed{ \\frac{1}{2} }$", 1, 1),
        (HALF, " 2", 0, 0),
    ]
    rows = {f"hendrycks_math_{subject}": [HALF] for subject in SUBJECTS}
    rows["hendrycks_math_algebra"] = [case[0] for case in cases]
    loaded = load(rows, "hendrycks_math")
    results, model = answer(loaded, [*(case[1] for case in cases), *["2"] * (len(SUBJECTS) - 1)])
    for place, metric in ((2, "math_verify"), (3, "exact_match")):
        right = sum(case[place] for case in cases)
        assert results["hendrycks_math_algebra"][f"{metric},none"] == pytest.approx(right / len(cases))
        assert results["hendrycks_math"][f"{metric},none"] == pytest.approx(right / (len(cases) + len(SUBJECTS) - 1))
    assert model.prompts[0] == "Problem: What is half of 1?\nAnswer:"


@pytest.mark.parametrize("name", ["minerva_math500", "hendrycks_math500"])
def test_math500(load, name):
    """A solution that is lacking its box has its answer beside it."""
    row = {"problem": "Half?", "solution": "It is a half.", "answer": "\\frac{1}{2}"}
    loaded = load({name: [row]})
    assert list(loaded["tasks"][name].higher_is_better()) == ["math_verify", "exact_match"]
    assert answer(loaded, [final("$\\frac{1}{2}$")])[0][name]["math_verify,none"] == 1
    with pytest.raises(UserError, match="has no"):
        load({name: [{"problem": "Half?", "solution": "It is a half."}]})


def test_without_math_verify(load, monkeypatch):
    """Known before anything is generated."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mdm-lightning\[lm-eval\]"):
        load({"minerva_math500": [HALF]})
