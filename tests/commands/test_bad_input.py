"""Bad input of every kind: one clear line that says what is wrong, a non-zero exit, and nothing lost."""

from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=huge"], ["model=huge", "micro"]),
        (["modle=tiny"], ["modle"]),
        (["model.hiden_size=3"], ["hiden_size"]),
        (["model.heads=5"], ["hidden_size 32", "heads 5"]),
        (["data.path=/nowhere/at/all"], ["/nowhere/at/all"]),
        (["data.length=64"], ["data.length=64", "model.length=64"]),
        (["schedule@training.schedule=beta", "training.schedule.alpha=0"], ["alpha must be positive", "0"]),
        (["schedule@training.schedule=beta", "training.schedule.beta=-1"], ["beta must be positive"]),
        (["schedule@training.schedule=beta", "training.schedule.alpha=inf"], ["alpha must be positive and finite"]),
        (["schedule@training.schedule=beta", "training.schedule.alpha=nan"], ["alpha must be positive and finite"]),
        (["training.global_batch_size=6"], ["global_batch_size=6", "batch_size=4"]),
        (["training.global_batch_size=4000"], ["fewer than one global batch"]),
        (["training.ema=1.5"], ["training.ema must be a decay in [0, 1)"]),
        (["lr_schedule.warmup_steps=50"], ["warmup_steps", "max_steps"]),
        (["trainer.devices=100000"], ["trainer.devices=100000", "CPU core"]),
        (["trainer.devices=two"], ["trainer.devices=two"]),
        (["trainer=gpu", "trainer.accelerator=gpu"], ["this machine has 0 GPUs"]),
        (["ckpt=last"], ["no run in outputs"]),
        (["ckpt=missing.ckpt"], ["missing.ckpt does not exist"]),
        (["run_dir=/proc/forbidden"], ["/proc/forbidden"]),
        (["tokenizer=file", "tokenizer.name_or_path=/nowhere.json"], ["/nowhere.json"]),
    ],
)
def test_options(train, tmp_path, arguments, words):
    outcome = train(*arguments)
    assert not (tmp_path / "outputs").exists()  # it leaves no run folder behind
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ["no text", "data.path="]),
        ("short.txt", b"too short", ["less than one sequence"]),
        ("binary.txt", bytes(range(128, 256)) * 40, ["binary.txt"]),
        ("broken.parquet", b"PAR1 and then nothing", ["broken.parquet"]),
        ("bad.jsonl", b'{"text": "fine"}\nnot json\n', ["bad.jsonl"]),
        ("field.jsonl", b'{"body": "text is elsewhere"}\n' * 50, ["text_field"]),
        ("image.png", b"\x89PNG", ["image.png"]),
    ],
)
def test_data(train, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    outcome = train(f"data.path={tmp_path / name}")
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


@pytest.fixture
def run(train, tmp_path: Path) -> Path:
    assert train("run_dir=run", "trainer.max_steps=6").status == 0
    return tmp_path / "run"


def test_checkpoints_that_do_not_fit(train, tmp_path, run):
    before = (run / "checkpoints/last.ckpt").read_bytes()
    config = (run / "config.yaml").read_bytes()
    assert "model.hidden_size is 32 there, 64 here" in train(f"ckpt={run}", "model.hidden_size=64").error
    assert "another tokenizer" in train(f"ckpt={run}", "tokenizer=character").error
    (tmp_path / "half.ckpt").write_bytes(before[: len(before) // 2])
    assert "half.ckpt is not a readable checkpoint" in train("ckpt=half.ckpt").error
    (tmp_path / "text.ckpt").write_text("hello")
    assert "text.ckpt is not a readable checkpoint" in train("ckpt=text.ckpt").error
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    assert "not a checkpoint of mdm-lightning" in train("ckpt=foreign.ckpt").error
    (tmp_path / "empty").mkdir()
    assert "no checkpoints/last.ckpt" in train("ckpt=empty").error
    # Nothing of the refused run was touched.
    assert (run / "checkpoints/last.ckpt").read_bytes() == before
    assert (run / "config.yaml").read_bytes() == config


def test_a_checkpoint_executes_nothing(train, tmp_path):
    class Exploit:
        def __reduce__(self):
            return Path(tmp_path / "executed").touch, ()

    torch.save({"state_dict": {}, "mdm_lightning": Exploit()}, tmp_path / "evil.ckpt")
    assert "not a readable checkpoint" in train("ckpt=evil.ckpt").error
    assert not (tmp_path / "executed").exists()


def test_without_a_network(train):
    outcome = train(
        "model=small",
        "data=owt",
        tiny=False,
        environment={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"},
    )
    assert outcome.status == 1
    assert "data.path=" in outcome.error


def test_debug_shows_the_traceback(train):
    outcome = train("model.heads=5", "debug=true")
    assert "Traceback" in outcome.stderr
    assert outcome.stderr.rstrip().splitlines()[-1].startswith("error: ")
