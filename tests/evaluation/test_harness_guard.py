"""A task's YAML is a program by lm-eval's design: what it names is run for who confirms it, and not before."""

from pathlib import Path

import pytest

from mdm_lightning.errors import UserError

pytest.importorskip("lm_eval")

from lm_eval import utils

from mdm_lightning.evaluation.lm_eval.catalogue import Catalogue

CODE = "from pathlib import Path\nPath(__file__).with_name('touched').touch()\ndef rows(docs): return docs\n"
TASK = """task: mine
dataset_path: json
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
"""
EXACT = "metric_list:\n  - metric: exact_match\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with tasks, code and data."""
    tasks = tmp_path / "tasks"
    (tasks / "inner").mkdir(parents=True)
    for place in (tasks, tasks / "inner"):
        (place / "code.py").write_text(CODE)
    (tmp_path / "data.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    return tasks


def load(folder: Path, name: str = "mine", *, allowed: bool = False):
    data = {name: str(folder.parent / "data.jsonl"), "mine": str(folder.parent / "data.jsonl")}
    return Catalogue((str(folder),), data, allow_programs=allowed).load([name])[name]


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)


HOSTILE = {
    "function": ("mine", {"a": TASK + EXACT + "process_docs: !function code.rows\n"}),
    "function in a list": ("mine", {"a": TASK + "metric_list:\n  - metric: !function code.rows\n"}),
    "function that is installed": ("mine", {"a": TASK + EXACT + "process_docs: !function os.system\n"}),
    "included": ("mine", {"a": TASK + EXACT + "include: base.yaml\n", "base": "process_docs: !function code.rows\n"}),
    "included by what is included": (
        "mine",
        {"a": TASK + "include: b.yaml\n", "b": "include: c.yaml\n", "c": EXACT + "process_docs: !function code.rows\n"},
    ),
    "in another folder": (
        "mine",
        {"a": TASK + EXACT + "include: inner/base.yaml\n", "inner/base": "process_docs: !function code.rows\n"},
    ),
    "class": ("mine", {"a": "task: mine\nclass: !function code.rows\n"}),
    "group": ("all", {"a": TASK + EXACT, "g": "group: all\ntask:\n  - mine\naggregate: !function code.rows\n"}),
    "group that writes its task out": (
        "all",
        {"g": "group: all\ntask:\n  - task: mine\n    process_docs: !function code.rows\n"},
    ),
    "group that includes its task": (
        "all",
        {"g": "group: all\ntask:\n  - include: b.yml\n    task: mine\n", "b": "process_docs: !function code.rows\n"},
    ),
    "tag": ("many", {"a": TASK + EXACT + "tag: many\nprocess_docs: !function code.rows\n"}),
    "metric from elsewhere": ("mine", {"a": TASK + "metric_list:\n  - metric: somebody/metric\n"}),
    "metric from a file": ("mine", {"a": TASK + "metric_list:\n  - metric: code.py\n"}),
    "metric of another library": ("mine", {"a": TASK + EXACT + "    hf_evaluate: true\n"}),
    "object of Python": ("mine", {"a": TASK + EXACT + "process_docs: !!python/name:os.system\n"}),
}


@pytest.mark.parametrize(("name", "files"), HOSTILE.values(), ids=HOSTILE)
def test_code_that_a_task_names_is_not_run(name, files, folder):
    write(folder, **files)
    if (folder / "b.yaml").exists() and name == "all":
        (folder / "b.yaml").rename(folder / "b.yml")
    with pytest.raises(UserError) as raised:
        load(folder, name)
    assert "\n" not in str(raised.value)
    assert not list(folder.rglob("touched"))


def test_code_is_run_for_who_confirms_it(folder):
    write(folder, a=TASK + EXACT + "process_docs: !function code.rows\n")
    with pytest.raises(UserError, match=r"names Python code \(code.rows\).*evaluation.allow_code_execution=true"):
        load(folder)
    (task,) = load(folder, allowed=True)
    assert task.task_name == "mine"
    assert (folder / "touched").exists()


def test_tasks_without_code_need_no_confirmation(folder):
    write(folder, a=TASK + EXACT)
    (task,) = load(folder)
    (document,) = task.test_docs()
    assert task.doc_to_text(document) == "a"


def test_templates_do_not_reach_python(folder):
    """lm-eval's own environment would run this."""
    escape = "{{ cycler.__init__.__globals__.os.system('touch " + str(folder / "touched") + "') }}"
    write(folder, a=TASK.replace("{{question}}", escape) + EXACT)
    with pytest.raises(UserError, match=r"template of the task mine cannot be rendered: .* unsafe"):
        load(folder)
    assert not (folder / "touched").exists()
    assert utils.apply_template("{{ a | regex_replace('b', 'c') }}\n", {"a": "ab"}) == "ac\n"
