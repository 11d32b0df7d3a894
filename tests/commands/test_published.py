"""Published models behind `ckpt=`: evaluated, swept, fine-tuned, exported; and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from mdm_lightning.denoiser.published.loading import read_published
from tests.commands.conftest import Measuring, Tune, load
from tests.commands.test_evaluate import rows_of
from tests.commands.test_sweep import cells, numbers
from tests.denoiser.published import dream, fast_dllm, llada, mdlm, write_with_tokenizer

MODELS = {"llada": llada(), "dream": dream(), "small": mdlm(), "qwen": fast_dllm()}
"""By the choice of ``model=`` with which each is fine-tuned."""

UNSTATED = {"qwen": "published.mask_id=36"}
"""What the user has to say of a model."""


def of(published: dict[str, Path], name: str) -> tuple[str, ...]:
    """The options that name a model."""
    return (f"ckpt={published[name]}", *([UNSTATED[name]] if name in UNSTATED else []))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {name: write_with_tokenizer(model, folder / name) for name, model in MODELS.items()}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run / "checkpoints/last.ckpt")["state_dict"]


@pytest.mark.parametrize("name", MODELS)
def test_evaluated_without_data(evaluate: Measuring, published, name, tmp_path):
    """What needs none is measured; of the rest one line says why it is left out."""
    outcome = evaluate(*of(published, name), f"run_dir={tmp_path / 'out'}", "sampler.steps=4")
    assert outcome.status == 0, outcome.stderr
    assert {row["evaluation"] for row in rows_of(tmp_path / "out")} == {"samples"}
    assert "likelihood is left out" in outcome.stdout
    assert "generation is left out" in outcome.stdout
    assert "choose data=" in outcome.stdout


@pytest.mark.parametrize("name", MODELS)
def test_swept_as_evaluated(sweep: Measuring, evaluate: Measuring, published, pairs, name, tmp_path):
    """A cell has the numbers of an evaluation with its options."""
    shared = (*of(published, name), "data=files", f"data.path={pairs}", "data.length=16", "sampler.steps=3")
    cell = ("schedule.alpha=0.9", "schedule.beta=0.3")
    options = ("sweep.baselines=[]", "sweep.limit=6", "sweep.profile=null")
    outcome = sweep(*shared, *cell, *options, f"sweep.dir={tmp_path / 'sweep'}")
    assert outcome.status == 0, outcome.stderr
    (found,) = cells(tmp_path / "sweep").values()
    chosen = ("evaluation=generation", "evaluation.sequences=6", "evaluation.generation.reference=false")
    outcome = evaluate(*shared, *cell, *chosen, "schedule=beta", f"run_dir={tmp_path / 'out'}")
    assert outcome.status == 0, outcome.stderr
    rows = [row for row in rows_of(tmp_path / "out") if row["metric"] != "tokens_per_second"]
    assert [(row["metric"], row["value"]) for row in rows] == [(row.metric, row.value) for row in numbers(found)]


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_fine_tuned(tune: Tune, evaluate: Measuring, published, name, adapter, tmp_path):
    """From the published weights on; stopped and resumed it is the same run; its checkpoint can be evaluated."""
    start = (*of(published, name), f"adapter={adapter}")
    assert tune(name, *start, "run_dir=whole").status == 0
    assert tune(name, *start, "run_dir=cut", "trainer.max_steps=2").status == 0
    resumed = tune(name, *start, "run_dir=cut")  # the same command: the run has begun, and goes on
    assert resumed.status == 0, resumed.stderr
    assert "at step 2" in resumed.stdout
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
    before = {
        f"denoiser.{key}": value
        for key, value in read_published(published[name], unstated=MODELS[name].unstated).state_dict().items()
    }
    if adapter == "lora":
        assert all(".lora_" in key for key in whole)
        assert all(bool(value.any()) for value in whole.values())
    else:
        assert whole.keys() == before.keys()
        moved = [float((value - before[key]).abs().max()) for key, value in whole.items() if "inv_freq" not in key]
        assert 0 < max(moved) < 0.5
    outcome = evaluate("ckpt=whole", "evaluation=likelihood", f"run_dir={tmp_path / 'out'}")
    assert outcome.status == 0, outcome.stderr
    assert rows_of(tmp_path / "out")[0]["value"] > 0


@pytest.mark.parametrize("name", ["dream", "qwen"])
def test_a_choice_for_another_model_changes_nothing(tune: Tune, published, name, tmp_path):
    """What a family says nothing of is not as ``model=`` of another has it: a shift, norms, the width of heads."""
    for chosen in ("llada", name):
        outcome = tune(chosen, f"ckpt={published['llada']}", "trainer.max_steps=2", f"run_dir={chosen}")
        assert outcome.status == 0, outcome.stderr
    own, other = weights(tmp_path / "llada"), weights(tmp_path / name)
    assert own.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in own.items())


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_processes_fine_tune_as_one(tune: Tune, published, adapter, trainer, tmp_path):
    """Up to a hundredth of how far the weights move."""
    start = (f"ckpt={published['llada']}", f"adapter={adapter}", "trainer.precision=32-true")
    assert tune("llada", *start, "run_dir=one").status == 0
    two = tune("llada", *start, "run_dir=two", f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2")
    assert two.status == 0, two.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    begun = {f"denoiser.{name}": value for name, value in read_published(published["llada"]).state_dict().items()}
    moved = max(float((value - begun.get(key, torch.zeros(()))).abs().max()) for key, value in one.items())
    assert moved > 2e-2
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=2e-4), key


@pytest.mark.parametrize("name", MODELS)
def test_exported_it_measures_the_same(tune: Tune, evaluate: Measuring, published, pairs, name, tmp_path):
    """Adapters are merged; the folder is one that ``ckpt=`` takes, and that says what was measured."""
    adapter = "none" if name == "small" else "lora"
    tuned = tune(name, *of(published, name), f"adapter={adapter}", "run_dir=run")
    assert tuned.status == 0
    assert "of responses and the fill after their first EOS; up to that EOS alone:\nTo first EOS " in tuned.stdout
    first = evaluate("ckpt=run", "evaluation=likelihood", f"export={tmp_path / 'model'}", f"run_dir={tmp_path / 'a'}")
    assert first.status == 0, first.stderr
    fields = ("data.prompt_field=ask", "data.response_field=say", "data.length=16")
    data = ("data=files", f"data.path={pairs}", *fields)
    again = evaluate(f"ckpt={tmp_path / 'model'}", "evaluation=likelihood", *data, f"run_dir={tmp_path / 'b'}")
    assert again.status == 0, again.stderr
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    names = ["nelbo_nats_per_token", "perplexity", "nelbo_nats_per_token_to_first_eos", "perplexity_to_first_eos"]
    assert [row["metric"] for row in rows_of(tmp_path / "a")] == names
    published_config = json.loads((published[name] / "config.json").read_text())
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert {key for key, value in published_config.items() if config[key] != value} <= {"dropout"}
    card = (tmp_path / "model/README.md").read_text()
    assert f"likelihood: nelbo_nats_per_token | {rows_of(tmp_path / 'a')[0]['value']:.6g}" in card
    assert f"It began as {name}." in card


def test_a_run_is_exported_in_mdlms_layout(evaluate: Measuring, text_model: Path, corpus: Path, tmp_path):
    """Whatever was trained from scratch here can be read by what reads MDLM."""
    assert evaluate(f"ckpt={text_model}", "evaluation=none", f"export={tmp_path / 'model'}").status == 0
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "mdlm"
    own = evaluate(f"ckpt={text_model}", "evaluation=likelihood", f"run_dir={tmp_path / 'a'}")
    data = ("data=files", f"data.path={corpus}", "data.length=32")
    exported = evaluate(f"ckpt={tmp_path / 'model'}", "evaluation=likelihood", *data, f"run_dir={tmp_path / 'b'}")
    assert (own.status, exported.status) == (0, 0), exported.stderr
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_an_export_replaces_nothing(evaluate: Measuring, published, tmp_path):
    """Other runs may depend on the model that is there."""
    target = write_with_tokenizer(MODELS["llada"], tmp_path / "model")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    outcome = evaluate(f"ckpt={published['dream']}", "evaluation=none", f"export={target}")
    assert outcome.status == 1
    assert "is not empty" in outcome.error
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_precision_is_that_of_the_trainer(evaluate: Measuring, published, pairs, tmp_path):
    """In bfloat16 the likelihood differs a little."""
    data = ("data=files", f"data.path={pairs}", "data.length=16", "evaluation=likelihood")
    values = []
    for precision in ("32-true", "bf16-true", "bf16-mixed"):
        where = f"run_dir={tmp_path / precision}"
        assert evaluate(f"ckpt={published['dream']}", *data, where, f"trainer.precision={precision}").status == 0
        values.append(rows_of(tmp_path / precision)[0]["value"])
    assert values[1] == pytest.approx(values[0], rel=0.02)
    assert len(set(values)) == 2  # what is never trained is bfloat16 under mixed precision, too


OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"}


def broken(published: dict[str, Path], folder: Path, kind: str) -> Path:
    """A copy of the LLaDA in which something is wrong."""
    model = MODELS["llada"]
    if kind == "no tokenizer":
        return model.write(folder)
    write_with_tokenizer(model, folder)
    if kind == "another tokenizer":
        (folder / "tokenizer.json").write_bytes((published["small"] / "tokenizer.json").read_bytes())
        (folder / "mdm_tokenizer.json").unlink()
        (folder / "config.json").write_text(json.dumps(model.config | {"embedding_size": 38}))
    if kind == "cut short":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    if kind == "another size":
        (folder / "config.json").write_text(json.dumps(model.config | {"d_model": 32}))
    if kind == "unknown family":
        (folder / "config.json").write_text("{}")
        from safetensors.torch import save_file

        save_file({"some.weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no tokenizer", ["has no tokenizer", "tokenizer.name_or_path="]),
        ("another tokenizer", ["the tokenizer has 39 ids", "38 rows"]),
        ("cut short", ["model.safetensors", "fetch it again"]),
        ("another size", ["instead of"]),
        ("unknown family", ["none of the known families", "LLaDA"]),
    ],
)
def test_what_is_broken(evaluate: Measuring, published, kind, words, tmp_path):
    outcome = evaluate(f"ckpt={broken(published, tmp_path / 'model', kind)}", "evaluation=samples")
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "sweep.py"])
def test_a_hub_name_without_a_network(script, tmp_path, cache):
    outcome = Measuring(script, tmp_path, cache).start("ckpt=GSAI-ML/LLaDA-8B-Base", environment=OFFLINE).wait()
    assert outcome.status == 1
    for word in ("cannot reach the Hugging Face hub", "GSAI-ML/LLaDA-8B-Base", "set ckpt="):
        assert word in outcome.error


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("small", ["ckpt={llada}"], ["is a Llama, but model= chose a DiT", "model=llada"]),
        ("llada", ["ckpt={small}"], ["is a DiT, but model= chose a Llama", "model=small"]),
        ("llada", ["ckpt={llada}", "model.depth=5"], ["model.depth=5", "has 2", "leave it out"]),
        ("qwen", ["ckpt={qwen}"], ["does not say mask_token_id", "published.mask_id="]),
        ("qwen", ["ckpt={qwen}", "published.mask_id=-1"], ["published.mask_id", "at least 0"]),
        ("qwen", ["ckpt={qwen}", "published.mask_id=36", "attention@model.attention=full"], ["leave it out"]),
        ("llada", ["ckpt={llada}", "published.shifted=true"], ["published.shifted= is not for"]),
        ("llada", ["ckpt={llada}", "data.length=99"], ["data.length=99", "model's length 32"]),
        ("llada", ["ckpt={llada}", "data.chat=true"], ["chat template"]),
        ("llada", ["ckpt={llada}", "adapter=lora", "adapter.targets=[nothing]"], ["names no linear layer", "query"]),
        ("llada", ["ckpt={llada}", "adapter=lora", "adapter.rank=0"], ["rank must be at least 1"]),
        ("micro", ["adapter=lora"], ["adapter=", "published model"]),
        ("llada", ["ckpt={llada}", "data.response_field=null"], ["data.response_field"]),
        ("llada", ["ckpt={llada}", "trainer.precision=bf16-true"], ["use trainer.precision=bf16-mixed"]),
        ("llada", ["ckpt={llada}", "data.prompt_field=question"], ["question", "data.prompt_field="]),
    ],
)
def test_what_cannot_be_fine_tuned(tune: Tune, published, model, arguments, words):
    outcome = tune(model, *(argument.format(**published) for argument in arguments))
    assert outcome.status == 1
    for word in words:
        assert word in outcome.error


def test_a_folder_of_another_run_is_not_touched(tune: Tune, published, tmp_path):
    """A published model with a run_dir in which something else has begun."""
    assert tune("llada", f"ckpt={published['llada']}", "adapter=lora", "run_dir=run").status == 0
    before = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()
    other = tune("dream", f"ckpt={published['dream']}", "adapter=lora", "run_dir=run", "trainer.max_steps=6")
    assert other.status == 1
    assert "did not begin as" in other.error
    assert "run_dir=" in other.error
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == before


def test_adapters_remember_a_tokenizer_that_was_given(tune: Tune, evaluate: Measuring, published, tmp_path):
    """The model brings none along: the checkpoint has it."""
    folder = MODELS["llada"].write(tmp_path / "model")
    tokenizer = ("tokenizer=file", f"tokenizer.name_or_path={published['llada']}")
    start = ("llada", f"ckpt={folder}", "adapter=lora", "run_dir=run", *tokenizer)
    assert tune(*start, "trainer.max_steps=2").status == 0
    resumed = tune("llada", "ckpt=run", "adapter=lora", *tokenizer)
    assert resumed.status == 0, resumed.stderr
    outcome = evaluate("ckpt=run", "evaluation=likelihood")
    assert outcome.status == 0, outcome.stderr


def test_a_checkpoint_has_nothing_foreign_built(evaluate: Measuring, text_model: Path, tmp_path):
    """Hydra would call whatever a checkpoint from somebody else names."""
    for target in ("subprocess.Popen", "mdm_lightning.commands.launch.subprocess.Popen", "os.system"):
        checkpoint = load(text_model / "checkpoints/last.ckpt")
        checkpoint["mdm_lightning"]["config"]["model"]["extra"] = {"_target_": target, "args": ["touch", "touched"]}
        torch.save(checkpoint, tmp_path / "shared.ckpt")
        outcome = evaluate("ckpt=shared.ckpt", "evaluation=samples")
        assert outcome.status == 1
        assert f"names {target}" in outcome.error
    assert not (tmp_path / "touched").exists()


def test_nor_is_anything_foreign_built_to_go_on_with_it(tune: Tune, published, tmp_path):
    """A run that began as a published model decides the sizes, and nothing else."""
    assert tune("llada", f"ckpt={published['llada']}", "run_dir=run").status == 0
    checkpoint = load(tmp_path / "run/checkpoints/last.ckpt")
    foreign = {"_target_": "subprocess.Popen", "args": ["touch", "touched"]}
    checkpoint["mdm_lightning"]["config"]["model"]["extra"] = foreign
    torch.save(checkpoint, tmp_path / "shared.ckpt")
    outcome = tune("llada", "ckpt=shared.ckpt", "trainer.max_steps=6")
    assert outcome.status == 1
    assert "names subprocess.Popen" in outcome.error
    assert not (tmp_path / "touched").exists()


def test_adapters_belong_to_their_model(tune: Tune, evaluate: Measuring, tmp_path):
    """Other weights under the same path, other adapters, and none are noticed; the same ones are known."""
    folder = write_with_tokenizer(MODELS["llada"], tmp_path / "model")
    assert tune("llada", f"ckpt={folder}", "adapter=lora", "run_dir=run").status == 0
    other = tune("llada", "ckpt=run", "adapter=lora", "adapter.rank=3", "trainer.max_steps=6")
    assert "adapter.rank is 16 there, 3 here" in other.error
    assert "adapter._target_" in tune("llada", "ckpt=run", "adapter=none", "trainer.max_steps=6").error
    assert tune("llada", "ckpt=run", "trainer.max_steps=6").status == 0
    write_with_tokenizer(llada(torch.bfloat16), folder)
    assert "has other weights than when the run began" in evaluate("ckpt=run", "evaluation=samples").error
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in evaluate("ckpt=run", "evaluation=samples").error
