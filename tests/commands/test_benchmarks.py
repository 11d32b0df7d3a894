"""`evaluation=lm_eval`: a model trained on a task it can do, in every kind of request; sweeps; wrong input."""

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.commands.conftest import TINY, Command, Measuring, variables
from tests.commands.test_evaluate import rows_of
from tests.commands.test_sweep import cells, numbers

LETTERS = "abcde"
TURN = """
task: turn
dataset_path: json
output_type: generate_until
test_split: test
training_split: train
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
fewshot_delimiter: ";"
generation_kwargs: {until: ["\\n"], max_gen_toks: 5}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOOSE = """
task: choose
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAY = """
task: say
dataset_path: json
output_type: loglikelihood
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
READ = """
task: read
dataset_path: json
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}{{answer}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""
GROUP = """
group: both
task: [turn, choose]
"""


def rows() -> list[dict]:
    """The last of two letters and a mark, then the first."""
    problems = []
    for number, (a, b) in enumerate(itertools.product(LETTERS, LETTERS)):
        choices = [b + a, b + ("e" if a != "e" else "d"), ("e" if b != "e" else "d") + a]
        problems.append({"question": f"{a}{b}:", "answer": b + a, "choices": choices, "gold": 0, "number": number})
    return problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in {"turn": TURN, "choose": CHOOSE, "say": SAY, "read": READ, "both": GROUP}.items():
        (folder / f"{name}.yaml").write_text(text)
    lines = [json.dumps(row) + "\n" for row in rows()]
    (folder / "data").mkdir()
    (folder / "data/test.jsonl").write_text("".join(lines))
    (folder / "data/train.jsonl").write_text("".join(lines[:2]))
    (folder / "pairs.jsonl").write_text("".join(random.Random(0).choices(lines, k=2000)))
    return folder


def trained(folder: Path, cache: Path, place: Path, steps: int, *arguments: str) -> Path:
    """The run folder of a model of the folder's rows."""
    options = {option.split("=")[0]: option for option in TINY} | {
        "data.path": f"data.path={folder / 'pairs.jsonl'}",
        "data.validation_path": f"data.validation_path={folder / 'pairs.jsonl'}",
        "tokenizer": "tokenizer=character",
        "training.log_every": "training.log_every=50",
        "training.global_batch_size": "training.global_batch_size=64",
        "training.batch_size": "training.batch_size=64",
    }
    lengths = [f"{key}={steps}" for key in ("trainer.max_steps", "training.validate_every", "training.save_every")]
    options |= {option.split("=")[0]: option for option in (*lengths, *arguments, "training.ema=null", "run_dir=run")}
    outcome = Command("train.py", list(options.values()), place, variables(cache)).wait()
    assert outcome.status == 0, outcome.stderr
    return place / "run"


@pytest.fixture(scope="module")
def model(folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on prompts and responses until it can do the task."""
    fields = ("data.prompt_field=question", "data.response_field=answer", "data.length=8")
    return trained(folder, cache, tmp_path_factory.mktemp("turning"), 150, *fields)


@pytest.fixture(scope="module")
def reader(folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on questions and answers as text: unlike the other, it has seen answers with no end after them."""
    text = folder / "text.txt"  # cut into fives, each sequence is a question with its answer
    text.write_text("".join(row["question"] + row["answer"] for row in random.Random(0).choices(rows(), k=2000)))
    place = tmp_path_factory.mktemp("reading")
    return trained(folder, cache, place, 150, f"data.path={text}", f"data.validation_path={text}", "data.length=5")


@pytest.fixture
def benchmark(evaluate: Measuring, model: Path, folder: Path, tmp_path: Path):
    """Runs tasks of the folder on the model, in a folder of its own, and returns the rows."""

    def run(tasks: str, *arguments: str, name: str = "out", model: Path = model) -> list[dict]:
        own = [f"+evaluation.files.{task}={folder / 'data'}" for task in ("turn", "choose", "say", "read")]
        chosen = ["evaluation=lm_eval", f"evaluation.tasks=[{tasks}]", f"evaluation.task_folders=[{folder}]", *own]
        outcome = evaluate(f"ckpt={model}", *chosen, "sampler.steps=2", f"run_dir={tmp_path / name}", *arguments)
        assert outcome.status == 0, outcome.stderr
        return rows_of(tmp_path / name)

    return run


def value(rows: list[dict], metric: str, task: str | None = None) -> float:
    found = [row for row in rows if row["metric"] == metric and task in (None, row["settings"]["task"])]
    return found[0]["value"]


def test_likelihoods(benchmark, reader):
    """A reader of a few seconds knows answers far better than chance does (a third; one of 25 pairs of letters), and
    texts hardly better than they are random."""
    rows = benchmark("choose,say,read", model=reader)
    assert value(rows, "acc", "choose") > 0.6
    assert 1 <= value(rows, "perplexity", "say") < 8
    # Two of five letters are random: 0.93 bits per byte, which no model can beat.
    assert 0.93 < value(rows, "bits_per_byte", "read") < 2.2
    error = [row for row in rows if row["metric"] == "monte_carlo_error_nats"]
    assert [row["value"] for row in error] == [0, 0, 0]  # so short that all masks are gone through


def test_generation(benchmark, tmp_path):
    """The model is right nearly always; scores are those of the answers that were written."""
    rows = benchmark("turn", "sampler=llada", "sampler.blocks.length=null")
    assert value(rows, "exact_match", "turn") > 0.9
    scores = next(row["scores"] for row in rows if row["metric"] == "exact_match")
    assert len(scores) == 25
    assert set(scores) <= {0.0, 1.0}
    answers = [json.loads(line) for line in (tmp_path / "out/lm_eval_turn.jsonl").read_text().splitlines()]
    assert len(answers) == 25
    right = [sample["resps"][0][0] == sample["target"] for sample in answers]
    assert [float(r) for r in right] == scores


def test_limits_choose_at_random_and_continue(benchmark, tmp_path):
    """100 % of the instances in any division; a limited choice is not the first few, and the next is disjoint."""

    def asked(*arguments: str, name: str) -> set[int]:
        benchmark("turn", *arguments, name=name)
        lines = (tmp_path / name / "lm_eval_turn.jsonl").read_text().splitlines()
        return {json.loads(line)["doc"]["number"] for line in lines}

    first = asked("evaluation.limit=10", name="a")
    rest = asked("evaluation.limit=100", "evaluation.first=10", name="b")
    assert len(first) == 10
    assert first != set(range(10))
    assert first | rest == set(range(25))
    assert not first & rest


def test_groups_are_pooled(benchmark):
    rows = [row for row in benchmark("both", "evaluation.limit=30") if row["metric"] in ("exact_match", "acc")]
    assert {row["settings"]["task"] for row in rows} == {"both", "turn", "choose"}
    assert sum(row["n"] for row in rows if row["settings"]["task"] == "both") == 30


def test_few_shot_examples_come_from_the_training_split(benchmark, tmp_path):
    benchmark("turn", "evaluation.num_fewshot=1", "evaluation.limit=4")
    lines = [json.loads(line) for line in (tmp_path / "out/lm_eval_turn.jsonl").read_text().splitlines()]
    for line in lines:
        example, question = line["arguments"][0][0].split(";")
        assert example in ("aa:aa", "ab:ba")
        assert question == line["doc"]["question"]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_answer_as_one(benchmark):
    """Every row and every score, speeds apart."""
    one = benchmark("turn,choose,say,read", "evaluation.batch_size=7", name="one")
    ranks = ("trainer=ddp", "trainer.devices=2")
    two = benchmark("turn,choose,say,read", "evaluation.batch_size=7", *ranks, name="two")
    timeless_one, timeless_two = ([r for r in rows if r["metric"] != "tokens_per_second"] for rows in (one, two))
    assert timeless_one == timeless_two


@pytest.mark.slow
def test_sweeps_pair_instances(sweep: Measuring, model: Path, folder: Path, tmp_path: Path):
    """Cells share the instances; a resumed sweep has the numbers of a fresh one; cells equal single evaluations."""
    options = (
        f"ckpt={model}",
        "evaluation=lm_eval",
        "evaluation.tasks=[turn]",
        f"evaluation.task_folders=[{folder}]",
        f"+evaluation.files.turn={folder / 'data'}",
        "evaluation.num_fewshot=1",
        "schedule.alpha=0.5,1",
        "schedule.beta=0.5",
        "sampler=expected_confidence",
        "sampler.steps=1,2",
        "sweep.limit=15",
        "sweep.baselines=[]",
    )
    outcome = sweep(*options, f"sweep.dir={tmp_path / 'sweep'}")
    assert outcome.status == 0, outcome.stderr
    found = cells(tmp_path / "sweep")
    assert len(found) == 4
    again = sweep(*options, f"sweep.dir={tmp_path / 'again'}", "sampler.steps=2,1")
    assert again.status == 0, again.stderr
    for key, cell in cells(tmp_path / "again").items():
        assert numbers(cell) == numbers(found[key])
        row = next(row for row in cell.rows if row.metric == "exact_match")
        assert row.n == 15
        assert row.scores is not None
        assert len(row.scores) == 15
    assert "exact match" in (tmp_path / "sweep/table.md").read_text()


SHUFFLED = TURN.replace("task: turn", "task: shuffled") + "process_docs: !function shuffle.shuffled\n"


def test_chance_in_a_task_is_the_same_every_time(benchmark, folder, tmp_path):
    """Some of lm-eval's tasks shuffle by the global generators: again, and on two processes, they do so equally."""
    body = "return docs.select(random.sample(range(len(docs)), min(9, len(docs))))"
    (folder / "shuffle.py").write_text(f"import random\n\ndef shuffled(docs):\n    {body}\n")
    (folder / "shuffled.yaml").write_text(SHUFFLED)
    files = f"+evaluation.files.shuffled={folder / 'data'}"
    asked = []
    for name, ranks in (("a", ()), ("b", ()), ("c", ("trainer=ddp", "trainer.devices=2"))):
        benchmark("shuffled", files, *ranks, "evaluation.allow_code_execution=true", name=name)
        lines = (tmp_path / name / "lm_eval_shuffled.jsonl").read_text().splitlines()
        asked.append([json.loads(line)["doc"]["number"] for line in lines])
    assert asked[0] == asked[1] == asked[2]
    assert len(set(asked[0])) == 9


def test_what_no_cell_could_have_fails_at_once(sweep: Measuring, model: Path, tmp_path: Path):
    """Before the first cell, in one line."""
    options = ("evaluation=lm_eval", "evaluation.tasks=[humaneval]", "sampler.steps=1,2", "logger=tensorboard")
    outcome = sweep(f"ckpt={model}", *options, f"sweep.dir={tmp_path / 'sweep'}")
    assert outcome.status == 1
    assert "allow_code_execution=true" in outcome.error
    assert "cells failed" not in outcome.error
    assert not (tmp_path / "sweep/cells").exists()


def test_cells_with_other_data_load_them(sweep: Measuring, model: Path, folder: Path, tmp_path: Path):
    """A path that does not exist fails in its cell, whatever the other cell has loaded."""
    options = ("evaluation=lm_eval", "evaluation.tasks=[turn]", f"evaluation.task_folders=[{folder}]")
    files = f"+evaluation.files.turn={folder / 'data'},/nowhere"
    grid = ("schedule.alpha=0.5", "schedule.beta=0.5", "sampler.steps=1", "sweep.limit=3", "sweep.baselines=[]")
    outcome = sweep(f"ckpt={model}", *options, files, *grid, f"sweep.dir={tmp_path / 'sweep'}")
    assert outcome.status == 1
    assert "1 of 2 cells failed" in outcome.error
    assert "/nowhere does not exist" in outcome.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluation.tasks=[turn]", "evaluation.num_fewshot=9"], ["num_fewshot"]),
        (
            ["evaluation.tasks=[turn]", "evaluation.num_fewshot=1", "+evaluation.files.turn={folder}/pairs.jsonl"],
            ["split"],
        ),
        (["evaluation.tasks=[]"], ["evaluation.tasks=[...]"]),
        (["evaluation.tasks=[gsm8l]"], ["no task gsm8l", "gsm8k"]),
        (["evaluation.tasks=[turn]", "+evaluation.files.turn=/nowhere"], ["/nowhere does not exist"]),
        (["evaluation.tasks=[turn]", "+evaluation.files.turn={folder}/turn.yaml"], ["turn.yaml", ".jsonl"]),
        (["evaluation.tasks=[turn]", "+evaluation.files.turn={folder}/broken.jsonl"], ["data of the task turn"]),
        (["evaluation.tasks=[turn]", "evaluation.task_folders=[/nowhere]"], ["/nowhere is no folder"]),
        (["evaluation.tasks=[turn]", "evaluation.generation_length=99"], ["generation_length=99", "model's length"]),
        (["evaluation.tasks=[turn]", "evaluation.first=25"], ["25 instances, none from 25 on"]),
        (["evaluation.tasks=[turn]", "evaluation.chat=true"], ["no chat template"]),
        (["evaluation.tasks=[turn]", "evaluation.limit=0"], ["limit must be at least 1"]),
        (["evaluation.tasks=[humaneval]"], ["runs generated programs", "allow_code_execution=true"]),
        (
            ["evaluation.tasks=[mbpp_plus_instruct_of_lm_eval]", "evaluation.allow_code_execution=true"],
            ["no task mbpp_plus_instruct_of_lm_eval"],
        ),
    ],
)
def test_what_cannot_be_run(evaluate, model, folder, arguments, words):
    (folder / "broken.jsonl").write_text('{"question": "a')
    last = {"+evaluation.files.turn": f"+evaluation.files.turn={folder / 'data'}"}
    last |= {"evaluation.task_folders": f"evaluation.task_folders=[{folder}]"}
    last |= {argument.split("=")[0]: argument.replace("{folder}", str(folder)) for argument in arguments}
    outcome = evaluate(f"ckpt={model}", "evaluation=lm_eval", *last.values())
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error
