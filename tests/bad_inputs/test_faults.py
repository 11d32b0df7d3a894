"""What can go wrong while a command runs: it ends with one line and its status, or goes on as if nothing had been."""

import shutil
from pathlib import Path

import pytest

from tests.bad_inputs import mishaps

MISHAP = "+training.callbacks.mishap._target_=tests.bad_inputs.mishaps"

# What happens in the first step, and what is said of it.
MISHAPS = [
    ("full", "the disk is full: somewhere/file; free space, or choose another run_dir="),
    ("quota", "the disk is full; free space"),
    ("read-only", "Read-only file system: somewhere/file; make it accessible"),
    ("vanished", "No such file or directory: somewhere/file"),
    ("stale", "somewhere/file"),
    ("memory", "out of memory: lower training.batch_size="),
    ("allocator", "out of memory: lower training.batch_size="),
    ("accelerator", "out of memory: lower training.batch_size="),
    ("worker", "a data loading process was killed"),
    ("archive", "a checkpoint could not be written (is the disk full?)"),
    ("encoding", "a file is not UTF-8 text"),
    ("json", "a file is not valid JSON"),
    ("bug", "RuntimeError: a cosmic ray and another (debug=true shows the traceback)"),
]


@pytest.mark.parametrize(("kind", "answer"), MISHAPS)
def test_errors_of_the_world(workplace, kind, answer):
    outcome, _ = workplace("train", f"{MISHAP}.Mishap", f"+training.callbacks.mishap.kind={kind}")
    assert outcome.status == 1
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, outcome.stderr
    assert answer in errors[0]
    assert "Traceback" not in outcome.stderr


def test_a_loss_that_is_not_finite(workplace):
    target = "+training.callbacks.poison._target_=tests.commands.interference.PoisonWeights"
    outcome, _ = workplace("train", target, "+training.callbacks.poison.step=2", "run_dir=run")
    assert outcome.status == 1
    assert "error: " in outcome.stderr


def test_a_validation_loss_that_is_not_finite(workplace):
    target = "+training.callbacks.poison._target_=tests.commands.interference.PoisonValidation"
    outcome, _ = workplace("train", target, "trainer.max_steps=8", "training.validate_every=4")
    assert outcome.status == 0, outcome.stderr
    assert (outcome.stdout + outcome.stderr).count("the validation loss is not finite at step 4 (nan)") == 1
    assert "is not finite at step 8" not in outcome.stdout + outcome.stderr


def test_killed_loaders(workplace):
    outcome, _ = workplace("train", f"{MISHAP}.KillWorkers", "training.workers=1")
    assert outcome.status == 1
    assert "a data loading process was killed" in outcome.stderr


# Where the process lives: what is done to it, a command, its status, and what is said.
SURROUNDINGS = [
    ("small files", mishaps.small_files, "train", ["run_dir=run", "cache_dir=cache"], 1, "large"),
    ("full output", mishaps.full_output, "evaluate", ["evaluation=likelihood"], 1, "the disk is full"),
    ("ASCII", mishaps.plain_output, "evaluate", ["evaluation=samples", "prompt=é"], 0, ""),
    ("no input", mishaps.no_input, "evaluate", ["evaluation=likelihood"], 0, ""),
    ("clock", mishaps.clock_back, "evaluate", ["evaluation=likelihood"], 0, ""),
]


@pytest.mark.parametrize(
    ("before", "script", "typed", "status", "answer"),
    [row[1:] for row in SURROUNDINGS],
    ids=[row[0] for row in SURROUNDINGS],
)
def test_surroundings(workplace, before, script, typed, status, answer):
    outcome, _ = workplace(script, *typed, before=before)
    assert outcome.status == status, outcome.stderr
    assert answer in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_reader_that_leaves(workplace):
    outcome, folder = workplace("evaluate", "evaluation=likelihood", "run_dir=measured", head=True)
    assert outcome.status == 1
    assert "error: whoever read the output has left" in outcome.stderr
    assert (folder / "measured/results.csv").stat().st_size > 0


def test_no_home(workplace):
    outcome, _ = workplace("evaluate", "evaluation=likelihood", variables={"HOME": None})
    assert outcome.status == 0, outcome.stderr


def test_no_network(workplace):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"}
    outcome, _ = workplace("train", "data=owt", "tokenizer=byte", variables=nowhere)
    assert outcome.status == 1
    assert "data.path=" in outcome.stderr
    outcome, _ = workplace("train", "tokenizer=gpt2", variables=nowhere)
    assert outcome.status == 1
    assert "tokenizer.name_or_path=" in outcome.stderr


# What befalls the cache between two commands: the second one builds anew what it must, and ends well.
def _damage(kind: str, cache: Path) -> None:
    tokens = next(cache.rglob("train-*.tokens"))
    sidecar, tokenizer = tokens.with_name(f"{tokens.name}.json"), next(cache.rglob("tokenizer-*/tokenizer.json"))
    actions = {
        "cut tokens": lambda: tokens.write_bytes(tokens.read_bytes()[:-7]),
        "other tokens": lambda: tokens.write_bytes(bytes(len(tokens.read_bytes()))),
        "no tokens": tokens.unlink,
        "no sidecar": sidecar.unlink,
        "damaged sidecar": lambda: sidecar.write_text("{"),
        "damaged tokenizer": lambda: tokenizer.write_text("[]"),
        "empty tokenizer": lambda: tokenizer.write_text(""),
        "stale lock": lambda: (tokens.parent / ".lock").write_text("12345"),
        "leftovers": lambda: tokens.with_name(f".{tokens.name}.123.tmp").write_bytes(b"half"),
    }
    actions[kind]()


@pytest.fixture(scope="module")
def complete_cache(workplace) -> Path:
    cache = workplace.root / "complete"
    outcome, _ = workplace("train", *CACHED, f"cache_dir={cache}")
    assert outcome.status == 0, outcome.stderr
    return cache


CACHED = ("tokenizer=character", "trainer.max_steps=1", "training.validate_every=1", "training.samples=0",
          "logger=none", "lr_schedule.warmup_steps=0")  # fmt: skip

DAMAGES = ("cut tokens", "other tokens", "no tokens", "no sidecar", "damaged sidecar", "damaged tokenizer",
           "empty tokenizer", "stale lock", "leftovers")  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_cache(workplace, complete_cache, tmp_path, kind):
    cache = shutil.copytree(complete_cache, tmp_path / "cache")
    _damage(kind, cache)
    outcome, _ = workplace("train", *CACHED, f"cache_dir={cache}")
    assert outcome.status == 0, outcome.stderr
    assert not list(cache.rglob("*.tmp")) or kind == "leftovers"


# What befalls a checkpoint.
CHECKPOINTS = {
    "cut": lambda whole: whole[: len(whole) // 3],
    "missing its end": lambda whole: whole[:-100],
    "zeros": lambda whole: bytes(len(whole)),
    "text": lambda whole: b"hello",
    "JSON": lambda whole: b"{}",
    "web page": lambda whole: b"<!DOCTYPE html><html>not found</html>",
    "pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
}


@pytest.mark.parametrize("script", ["train", "evaluate"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_damaged_checkpoint(workplace, tmp_path, script, kind):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(CHECKPOINTS[kind]((workplace.run / "checkpoints/last.ckpt").read_bytes()))
    outcome, _ = workplace(script, f"ckpt={damaged}")
    assert outcome.status == 1
    assert "damaged.ckpt is not a readable checkpoint" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# What nobody may read or write, and what is said of it; None where all goes well.
LOCKED = [
    ("data", "train", ["data.path={root}/locked/secret.txt"], "Permission denied"),
    ("checkpoint", "evaluate", ["ckpt={root}/locked/secret.ckpt"], "secret.ckpt"),
    (
        "distribution",
        "train",
        ["data=toy", "tokenizer=task", "data.path={root}/locked/secret.json"],
        "Permission denied",
    ),
    ("advice", "train", ["schedule=advised", "advice={root}/locked/secret.json"], "Permission denied"),
    ("run folder", "train", ["run_dir={root}/locked/run"], "Permission denied"),
    ("results", "evaluate", ["evaluation=likelihood", "run_dir={root}/locked/measured"], "Permission denied"),
    ("sweep", "sweep", ["sweep.dir={root}/locked/sweep"], "Permission denied"),
    ("cache", "train", ["cache_dir={root}/locked/cache"], "cannot use"),
    ("complete cache", "train", [*CACHED, "cache_dir={root}/locked/complete", "run_dir=run"], None),
]


@pytest.fixture(scope="module")
def locked(workplace, complete_cache) -> None:
    folder = workplace.root / "locked"
    folder.mkdir()
    for name in ("secret.txt", "secret.ckpt", "secret.json"):
        (folder / name).write_text("secret")
        (folder / name).chmod(0)
    shutil.copytree(complete_cache, folder / "complete")
    for path in [*folder.glob("complete/**/*"), folder / "complete", folder]:
        if path.is_dir():
            path.chmod(0o555)


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(("script", "typed", "answer"), [row[1:] for row in LOCKED], ids=[row[0] for row in LOCKED])
def test_what_is_locked(workplace, script, typed, answer):
    outcome, _ = workplace(script, *typed, before=mishaps.as_a_user)
    assert outcome.status == (0 if answer is None else 1), outcome.stderr
    assert answer is None or answer in outcome.stderr
    assert "Traceback" not in outcome.stderr
