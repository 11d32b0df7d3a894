"""Every configuration of data and tokenizers composes as a user would type it, and can be instantiated."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from mdm_lightning.data.source import Source
from mdm_lightning.data.tokenizer.spec import ByteLevel, BytePairEncoding, FromTask, TokenizerSpec

CONF = Path(__file__).parents[2] / "conf"
DATA = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))
TOKENIZERS = sorted(file.stem for file in (CONF / "tokenizer").glob("*.yaml"))
LAW = Path(__file__).parent / "distribution.json"
NEEDED = {"files": ["data.path=x"], "file": ["tokenizer.name_or_path=x"], "toy": [f"data.path='{LAW}'"]}


@pytest.fixture
def configure(tmp_path):
    def configure(*overrides: str):
        primary = {
            "defaults": [{"tokenizer": "bpe"}, {"data": "stdlib"}, "_self_"],
            "model": {"length": 128},
            "hydra": {"searchpath": [f"file://{CONF}"]},
        }
        OmegaConf.save(primary, tmp_path / "primary.yaml")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("primary", list(overrides))

    return configure


@pytest.mark.parametrize("name", DATA)
def test_every_data_set(name, configure):
    config = configure(f"data={name}", *NEEDED.get(name, []))
    source = instantiate(config.data)
    assert isinstance(source, Source)
    assert source.name == name
    own_tokens = name in (
        "sudoku",
        "sudoku_4x4",
        "countdown",
        "addition",
        "running_sum",
        "dyck",
        "toy",
        "toy_balanced",
        "toy_extremes",
    )
    assert isinstance(instantiate(config.tokenizer), FromTask) == own_tokens
    assert own_tokens or source.length == 128


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer(name, configure):
    config = configure(f"tokenizer={name}", *NEEDED.get(name, []))
    assert isinstance(instantiate(config.tokenizer), TokenizerSpec)


def test_configs_list_every_argument():
    """What can be set can be seen, and needs no + on the command line."""
    for group, name in [("data", name) for name in DATA] + [("tokenizer", name) for name in TOKENIZERS]:
        config = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
        assert isinstance(config, dict)
        arguments = set(inspect.signature(get_class(config["_target_"])).parameters)
        assert arguments == set(config) - {"_target_", "defaults"}, name


def test_data_chooses_a_tokenizer_and_the_command_line_wins(configure):
    assert isinstance(instantiate(configure().tokenizer), BytePairEncoding)
    assert configure("data=owt").tokenizer.name_or_path == "openai-community/gpt2"
    assert isinstance(instantiate(configure("data=owt", "tokenizer=byte").tokenizer), ByteLevel)
    assert configure("tokenizer.vocab_size=2048").tokenizer.vocab_size == 2048
    assert configure("model.length=64", "data.wrap=true").data.length == 64


def test_default_prepares(configure, tmp_path, corpus_file):
    config = configure("data=files", f"data.path={corpus_file}", "tokenizer.vocab_size=300", "model.length=32")
    data = instantiate(config.data).prepare(instantiate(config.tokenizer), tmp_path)
    assert data.train[0]["tokens"].shape == (32,)
