"""Training that begins from an autoregressive model, and training in blocks."""

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Measuring, Tune, interfere
from tests.commands.test_evaluate import rows_of
from tests.commands.test_published import weights
from tests.denoiser.published import llada, qwen2, same, write_with_tokenizer

BLOCKS = ("attention@model.attention=block_causal", "model.attention.block_size=4")
KINDS = {
    "annealed": (("training.attention_annealing=4",), ()),
    "in blocks": ((*BLOCKS, "masking@training.masking=blockwise"), ("estimator=blockwise", "estimator.block_size=4")),
}
BEGIN = "published.autoregressive=true"


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2, tied: 37 ids, 40 rows, and nothing of MASK."""
    return write_with_tokenizer(qwen2(), tmp_path_factory.mktemp("autoregressive"))


@pytest.mark.parametrize("kind", KINDS)
def test_begun_as_an_autoregressive_model(
    tune: Tune, evaluate: Measuring, autoregressive: Path, pairs: Path, kind: str, tmp_path: Path
):
    """Stopped and resumed it is the same run. Its export says where MASK is and in which blocks it reads, is read back
    without a word of the user's, and measures the same."""
    training, estimator = KINDS[kind]
    start = (f"ckpt={autoregressive}", BEGIN, *training)
    whole = tune("qwen", *start, "run_dir=whole")
    assert whole.status == 0, whole.stderr
    stopped = tune("qwen", *start, "run_dir=cut", *interfere("SendSignal", number="SIGTERM", step=2))
    assert stopped.status == 75, stopped.stderr
    resumed = tune("qwen", *start, "run_dir=cut")
    assert "resuming from" in resumed.stdout
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    plain = tune("qwen", f"ckpt={autoregressive}", BEGIN, *(BLOCKS if kind == "in blocks" else ()), "run_dir=plain")
    assert plain.status == 0
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "plain"))

    measure = ("evaluation=likelihood", *estimator)
    first = evaluate("ckpt=whole", *measure, f"export={tmp_path / 'model'}", f"run_dir={tmp_path / 'a'}")
    assert first.status == 0, first.stderr
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["mask_token_id"], config["shifted"], config["vocab_size"]) == (37, True, 40)
    assert config.get("block_size") == (4 if kind == "in blocks" else None)
    data = ("data=files", f"data.path={pairs}", "data.prompt_field=ask", "data.response_field=say", "data.length=16")
    again = evaluate(f"ckpt={tmp_path / 'model'}", *measure, *data, f"run_dir={tmp_path / 'b'}")
    assert again.status == 0, again.stderr
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


@pytest.mark.parametrize("block", [1, 4])
def test_in_blocks_validation_measures_generating_in_blocks(
    tune: Tune, evaluate: Measuring, autoregressive: Path, block: int, tmp_path: Path
):
    """``val/loss`` is what ``estimator=blockwise`` measures: to the last digits for blocks of one position, which leave
    nothing to chance. That is the default of ``evaluation=likelihood``, too, and not the bound of whole sequences."""
    blocks = ("attention@model.attention=block_causal", f"model.attention.block_size={block}")
    options = ("masking@training.masking=blockwise", "trainer.precision=32-true", "training.validation_sequences=null")
    run = tune("qwen", f"ckpt={autoregressive}", BEGIN, *blocks, *options, "run_dir=run")
    assert run.status == 0, run.stderr
    assert f"(upper bound, in blocks of {block})" in run.stdout
    metrics = json.loads((tmp_path / "run/results.json").read_text())["metrics"]
    estimators = ((), ("estimator=blockwise", f"estimator.block_size={block}"), ("estimator=count",))
    found = []
    for number, estimator in enumerate(estimators):
        outcome = evaluate("ckpt=run", "evaluation=likelihood", *estimator, f"run_dir={number}")
        assert outcome.status == 0, outcome.stderr
        found.append(rows_of(tmp_path / str(number)))
    default, blockwise, whole = found
    assert default == blockwise != whole
    for key, row in (("val/loss", default[0]), ("val/loss_to_first_eos", default[2])):
        within = {"rel": 1e-5} if block == 1 else {"abs": 4 * row["stderr"]}
        assert metrics[key] == pytest.approx(row["value"], **within)
        assert block > 1 or abs(whole[0]["value"] - default[0]["value"]) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["does not say mask_token_id", "published.autoregressive=true"]),
        ([BEGIN, "training.attention_annealing=5"], ["attention_annealing=5", "trainer.max_steps=4"]),
        ([BEGIN, "masking@training.masking=blockwise"], ["block_size"]),
        (
            [BEGIN, *BLOCKS, "masking@training.masking=blockwise", "training.masking.block_size=8"],
            ["blocks of 8", "BlockCausal"],
        ),
        (
            [BEGIN, *BLOCKS, "masking@training.masking=blockwise", "training.attention_annealing=4"],
            ["attention_annealing= is not for blockwise masks"],
        ),
    ],
)
def test_what_does_not_go_together(tune: Tune, autoregressive: Path, arguments: list[str], words: list[str]):
    outcome = tune("qwen", f"ckpt={autoregressive}", *arguments)
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


def test_a_format_without_blocks_is_no_place_for_a_model_in_blocks(tune: Tune, evaluate: Measuring, tmp_path: Path):
    """It would be read back with full attention, as another model."""
    folder = write_with_tokenizer(llada(), tmp_path / "llada")
    tuned = tune("llada", f"ckpt={folder}", *BLOCKS, "run_dir=run")
    assert tuned.status == 0, tuned.stderr
    outcome = evaluate("ckpt=run", "evaluation=none", f"export={tmp_path / 'model'}")
    assert outcome.status == 1
    assert "LLaDA's format knows full attention only" in outcome.error
    assert not (tmp_path / "model").exists()
