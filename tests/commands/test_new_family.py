"""A family of published models that nothing lists: one file in the folder of families, one YAML with its sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from mdm_lightning.denoiser.published import recognition
from tests.commands.conftest import REPOSITORY, Measuring, Tune
from tests.commands.test_evaluate import rows_of
from tests.commands.test_published import weights
from tests.denoiser.published import dream, refusal, write_with_tokenizer

FAMILY = '''
"""Example, whose names of tensors are its own."""

from mdm_lightning.denoiser.published.family import PublishedConfig
from mdm_lightning.denoiser.published.families.qwen import HARMLESS, decoder_arguments
from mdm_lightning.denoiser.published.renamed import DecoderLayout


class Example(DecoderLayout):
    name = "Example"
    size = "example"
    blocks = "decoder.layers"
    modules = {"embedding": "decoder.embed_tokens", "norm": "decoder.norm", "lm_head": "lm_head"}

    def matches(self, weights):
        return "decoder.embed_tokens.weight" in weights.shapes

    def arguments(self, weights, vocab_size, unstated):
        config = PublishedConfig(weights, weights.config)
        arguments = decoder_arguments(config, weights, vocab_size) | {"mask_row": config["mask_token_id"]}
        config.warn_of_unread(HARMLESS)
        return arguments
'''
SIZES = """
# @package _global_
defaults: [dream, _self_]
model: {hidden_size: 2048}
"""
PROGRAM = """
import runpy
from mdm_lightning.denoiser.published import families
families.__path__.append({folder!r})
runpy.run_path({program!r}, run_name="__main__")
"""


def example(folder: Path) -> Path:
    """A model of the family, as it would be published."""
    tiny = dream()
    renamed = {name.replace("model.", "decoder."): value for name, value in tiny.weights.items()}
    return write_with_tokenizer(replace(tiny, config=tiny.config | {"model_type": "example"}, weights=renamed), folder)


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """The commands, with the family's file in its folder; its YAML is in ``conf``."""
    files = {"families/example.py": FAMILY, "conf/model/example.yaml": SIZES}
    names = ("train.py", "evaluate.py")
    for name in names:
        program, folder = str(REPOSITORY / name), str(tmp_path / "families")
        files[name] = PROGRAM.format(folder=folder, program=program)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return {name: str(tmp_path / name) for name in names}


def test_trained_evaluated_and_exported(tune: Tune, programs, pairs: Path, cache: Path, tmp_path):
    """What is exported has the family's own names, and measures what the run does."""
    model = example(tmp_path / "published")
    run = tune("example", "--config-dir=conf", f"ckpt={model}", "run_dir=run", script=programs["train.py"])
    assert run.status == 0, run.stderr
    assert weights(tmp_path / "run")["denoiser.blocks.0.query.weight"].any()
    evaluate = Measuring(programs["evaluate.py"], tmp_path, cache)
    first = evaluate("ckpt=run", "evaluation=likelihood", "export=exported", "run_dir=a")
    assert first.status == 0, first.stderr
    with safe_open(tmp_path / "exported/model.safetensors", "pt") as stored:
        assert "decoder.layers.0.self_attn.q_proj.weight" in stored.keys()  # noqa: SIM118, it is no mapping
    assert json.loads((tmp_path / "exported/config.json").read_text())["model_type"] == "example"
    fields = ("data.prompt_field=ask", "data.response_field=say", "data.length=16")
    data = ("data=files", f"data.path={pairs}", *fields)
    again = evaluate("ckpt=exported", "evaluation=likelihood", *data, "run_dir=b")
    assert again.status == 0, again.stderr
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_without_its_file_it_is_not_known(tmp_path):
    assert "none of the known families" in refusal(example(tmp_path / "published"))


def test_a_file_that_claims_what_another_does_is_named(programs, tmp_path, monkeypatch):
    """Which of them is meant must not depend on the names of files."""
    greedy = FAMILY.replace("decoder.embed_tokens.weight", "model.embed_tokens.weight").replace("Example", "Greedy")
    (tmp_path / "families/greedy.py").write_text(greedy)
    monkeypatch.setattr(recognition.families, "__path__", [*recognition.families.__path__, str(tmp_path / "families")])
    monkeypatch.setattr(recognition, "known_families", recognition.known_families.__wrapped__)
    message = refusal(write_with_tokenizer(dream(), tmp_path / "dream"))
    assert "claimed by several families: Dream and Greedy" in message
