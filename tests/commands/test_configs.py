"""Every choice of every group composes, and what it composes to can be built."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.evaluate import build_evaluations
from mdm_lightning.commands.sweep.cell import ignored_options
from mdm_lightning.denoiser.attention import AttentionPattern
from mdm_lightning.diffusion.blockwise import Blockwise
from mdm_lightning.diffusion.fitting import Fitting
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking
from mdm_lightning.diffusion.schedule import MaskSchedule, PolynomialSchedule
from mdm_lightning.evaluation.description import configuration
from mdm_lightning.evaluation.lm_eval.evaluation import LmEval
from mdm_lightning.files import to_json
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.eos import EosFree, EosLast, EosNever
from mdm_lightning.sampling.order import Confidence, Random
from mdm_lightning.sampling.presets import expected_random, llada, mdlm_ancestral
from mdm_lightning.sampling.spaced import MinimumDistance
from mdm_lightning.training.optimizer import AdamW

CONF = Path(__file__).parents[2] / "conf"
# Published sizes in millions of parameters: GPT-2's trunk, two embeddings of V x width, adaLN and norms.
SIZES = {"micro": (0.0, 0.1), "tiny": (0.3, 0.8), "small": (85, 100), "medium": (300, 350), "large": (700, 800)}
SIZES |= {"ar": SIZES["tiny"], "llada": (8000, 8100), "dream": (7600, 7700), "qwen": (590, 600)}


def configure(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in choices("model") if name not in ("dit", "llama")])
def test_models(name):
    config = configure(f"model={name}")
    with torch.device("meta"):
        denoiser = instantiate(config.model, vocab_size=100)
    assert denoiser.forward_flops(16)[0] > 0
    millions = sum(p.numel() for p in denoiser.parameters()) / 1e6
    least, most = SIZES[name]
    assert least < millions < most
    assert config.data.length == denoiser.length


@pytest.mark.parametrize("model", ["tiny", "llada"])
@pytest.mark.parametrize("name", choices("attention"))
def test_attention_patterns(model, name):
    config = configure(f"model={model}", f"attention@model.attention={name}")
    with torch.device("meta"):
        denoiser = instantiate(config.model, vocab_size=100)
    assert isinstance(denoiser.attention, AttentionPattern)
    assert type(denoiser.attention).__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_published_sizes_bring_the_published_recipe(name):
    config = configure(f"model={name}", "data=owt")
    assert config.training.global_batch_size == 512
    assert config.training.ema == 0.9999
    assert config.optimizer.lr == 3e-4
    assert instantiate(config.lr_schedule).warmup_steps == 2500
    assert (config.trainer.precision, config.trainer.gradient_clip_val) == ("bf16-mixed", 1.0)
    assert config.data.wrap
    assert config.tokenizer.name_or_path == "openai-community/gpt2"


def test_what_is_said_on_the_command_line_wins_over_the_recipe():
    config = configure("model=small", "recipe=quick", "optimizer.lr=7e-4", "schedule@training.schedule=sine")
    assert config.optimizer.lr == 7e-4
    assert config.training.global_batch_size == 32
    assert config.training.schedule._target_.endswith("SineSchedule")


@pytest.mark.parametrize("name", [name for name in choices("schedule") if name != "advised"])
def test_schedules_in_both_seats(name):
    config = configure(f"schedule={name}", f"schedule@training.schedule={name}", "masking@training.masking=independent")
    for seat in (config.schedule, config.training.schedule, config.training.masking.schedule):
        assert isinstance(instantiate(seat), MaskSchedule)


@pytest.mark.parametrize("name", [name for name in choices("masking") if name != "next_token"])
@pytest.mark.parametrize("times", choices("timesteps"))
def test_forward_processes(name, times):
    blocks = ["attention@model.attention=block_causal"] if name == "blockwise" else []
    config = configure(f"masking@training.masking={name}", f"timesteps@training.times={times}", *blocks)
    assert isinstance(instantiate(config.training.masking), IndependentMasking | CountMasking | Blockwise)


@pytest.mark.parametrize("name", choices("lr_schedule"))
def test_learning_rate_schedules(name):
    assert 0 < instantiate(configure(f"lr_schedule={name}").lr_schedule)(50) <= 1


@pytest.mark.parametrize("name", choices("optimizer"))
def test_optimizers(name):
    assert isinstance(instantiate(configure(f"optimizer={name}").optimizer), AdamW)


@pytest.mark.parametrize("name", [name for name in choices("trainer") if name != "gpu"])
def test_trainers(name):
    config = configure(f"trainer={name}", "trainer.accelerator=cpu", "trainer.devices=1")
    assert isinstance(instantiate(config.trainer, logger=False, enable_progress_bar=False), Trainer)


OF_TRAINING = [name for name in choices("experiment") if not name.startswith(("toy", "paper", "llada"))]
# From LLaDA's evaluation notes: generation length, block length, rule for EOS.
LLADA = {f"llada_base_{task}": (1024, None, EosFree) for task in ("bbh", "gsm8k", "humaneval", "math", "mbpp")} | {
    "llada_instruct_gsm8k": (512, None, EosLast),
    "llada_instruct_math": (512, None, EosLast),
    "llada_instruct_gpqa": (64, None, EosLast),
    "llada_instruct_humaneval": (512, None, EosNever),
    "llada_instruct_mbpp": (256, None, EosLast),
    "llada_instruct_gsm8k_blocks": (256, 8, EosFree),
    "llada_instruct_math_blocks": (512, 64, EosFree),
    "llada_1p5_gsm8k": (256, 16, EosLast),
    "llada_1p5_math": (1024, 128, EosLast),
    "llada_1p5_gpqa": (256, 16, EosFree),
    "llada_1p5_humaneval": (512, 32, EosLast),
    "llada_1p5_mbpp": (512, 32, EosLast),
}
PAPERS = [name for name in choices("experiment") if name.startswith("paper_")]


@pytest.mark.parametrize("name", OF_TRAINING)
def test_experiments(name):
    assert instantiate(configure(f"experiment={name}").lr_schedule)(0) > 0


@pytest.mark.parametrize(
    "name", [name for name in choices("experiment") if name.startswith("llada_") and name != "llada_chat"]
)
def test_lladas_evaluations(name):
    """As published, a step for every position, and the command line has the last word."""
    config = configure(f"experiment={name}", name="evaluate")
    (evaluation,) = build_evaluations(config.evaluation).values()
    assert isinstance(evaluation, LmEval)
    sampler, (length, block, rule) = evaluation.sampler, LLADA[name]
    assert (evaluation.generation_length, sampler.steps, sampler.blocks.length) == (length, length, block)
    assert type(sampler.eos) is rule
    assert replace(sampler, steps=64, blocks=Blocks(32), eos=EosFree()) == llada()
    assert evaluation.chat == (not name.startswith("llada_base"))
    assert config.trainer.precision == "bf16-true"
    changed = configure(f"experiment={name}", "eos=never", "evaluation.generation_length=16", name="evaluate")
    (evaluation,) = build_evaluations(changed.evaluation).values()
    assert isinstance(evaluation, LmEval)
    assert (evaluation.sampler.eos, evaluation.sampler.steps) == (EosNever(), 16)


MEASURING = pytest.mark.parametrize("command", ["evaluate", "sweep"])


@MEASURING
def test_the_toy_experiment(command):
    """It chooses groups and sets values over those of the command, and gives way to the command line."""
    config = configure("experiment=toy", name=command)
    assert list(build_evaluations(config.evaluation)) == ["exact_distribution"]
    assert instantiate(config.data).name == "toy_extremes"
    assert config.sampler.steps == 3
    assert config.sweep.metric == "kl"
    other = configure("experiment=toy", "data=toy_balanced", "evaluation=likelihood", "sampler.steps=2", name=command)
    assert list(build_evaluations(other.evaluation)) == ["likelihood"]
    assert (instantiate(other.data).name, other.sampler.steps) == ("toy_balanced", 2)


@MEASURING
@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_benchmarks(command, name):
    """The paper's settings: low-confidence order, and generation lengths with step budgets up to them."""
    config = configure(f"experiment={name}", name=command)
    (evaluation,) = build_evaluations(config.evaluation).values()
    assert isinstance(evaluation, LmEval)
    long_names = {"math": "hendrycks_math", "minerva": "minerva_math"}
    short = name.removeprefix("paper_")
    assert evaluation.tasks == [long_names.get(short, short)]
    assert evaluation.generation_length == (128 if name in ("paper_bbh", "paper_gsm8k") else 256)
    assert not evaluation.allow_code_execution
    assert isinstance(evaluation.sampler.order, Confidence)
    assert isinstance(evaluation.sampler.count, Expected)
    assert evaluation.sampler.tokens.temperature == 0
    assert config.trainer.precision == "bf16-true"
    steps = [8, 16, 32, 64, 128, 256]
    assert config.sweep.steps == steps[: steps.index(evaluation.generation_length) + 1]
    assert list(config.sweep.alpha) == list(config.sweep.beta) == [i / 10 for i in range(1, 11)]
    assert 50 <= config.sweep.limit <= 150


@pytest.mark.parametrize("name", choices("adapter"))
def test_adapters(name):
    config = configure("model=llada", f"adapter={name}")
    assert instantiate(config.adapter).freezes == (name == "lora")
    assert config.optimizer.lr == (2e-4 if name == "lora" else 2e-5)
    assert config.trainer.precision == "bf16-mixed"


@MEASURING
@pytest.mark.parametrize("name", [name for name in choices("evaluation") if name != "none"])
def test_evaluations(command, name):
    built = build_evaluations(configure(f"evaluation={name}", name=command).evaluation)
    assert list(built) == [name]
    assert callable(built[name])


@pytest.mark.parametrize(
    ("command", "expected"),
    [("evaluate", ["likelihood", "profile", "generation", "task", "samples"]), ("sweep", ["generation", "task"])],
)
def test_what_is_evaluated_by_default(command, expected):
    assert list(build_evaluations(configure(name=command).evaluation)) == expected


@MEASURING
@pytest.mark.parametrize("name", [name for name in choices("estimator") if name != "policy"])
def test_estimators(command, name):
    blocks = ["estimator.block_size=4"] if name == "blockwise" else []
    config = configure("evaluation=likelihood", f"estimator={name}", "sampler.steps=5", *blocks, name=command)
    chosen = instantiate(config.evaluation.likelihood).estimator
    with torch.device("meta"):
        denoiser = instantiate(configure().model, vocab_size=9)
    masking = chosen.process(denoiser) if isinstance(chosen, Fitting) else chosen
    everything = torch.ones(4, 6, dtype=torch.bool)
    batch = masking(torch.zeros(4, 6, dtype=torch.int64), everything, 9, torch.Generator().manual_seed(0))
    assert batch.lengths.tolist() == [6] * 4
    assert masking.estimator


@MEASURING
@pytest.mark.parametrize("name", [name for name in choices("sampler") if name not in ("base", "advised")])
def test_the_samplers_own_likelihood(command, name):
    """Of the very sampler that generates; those without one are refused while nothing is done yet."""
    options = ["evaluation=likelihood", "estimator=policy", f"sampler={name}", "sampler.steps=5"]
    config = configure(*options, name=command)
    if name in ("maskgit", "remdm", "remdm_rescale"):
        with pytest.raises(InstantiationException, match="walk: "):
            instantiate(config.evaluation.likelihood)
    else:
        built = instantiate(config.evaluation.likelihood)
        assert built.estimator.sampler == instantiate(config.sampler)
        assert built.judging[0] == "predicted_accuracy"


@MEASURING
@pytest.mark.parametrize("name", choices("scorer"))
def test_scorers_are_built_without_a_network(command, name, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("constructing a scorer must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    options = ["scorer.ckpt=last"] if name == "run" else []
    assert callable(instantiate(configure(f"scorer={name}", *options, name=command).scorer).prepare)


@MEASURING
@pytest.mark.parametrize("name", choices("schedule"))
def test_schedules_to_measure(command, name, tmp_path):
    advice = tmp_path / "advice.json"
    advice.write_text('{"64": {"beta": [0.9, 0.3], "optimal": [0.0, 0.4, 1.0]}}')
    config = configure(f"schedule={name}", f"advice='{advice}'", name=command)
    schedule = instantiate(config.sampler).schedule
    assert schedule == instantiate(config.schedule)
    assert float(schedule.alpha_t(torch.tensor(1.0, dtype=torch.float64))) == pytest.approx(1)


@MEASURING
def test_the_advised_sampler(command, tmp_path):
    """It is built of nothing but the file, with all its parts; its parts are not for the command line to choose."""
    chosen = replace(llada(PolynomialSchedule(3.0)), steps=8, eos=EosLast(), tempered_evidence=True)
    (tmp_path / "advice.json").write_text(to_json({"8": {"sampler": configuration(chosen)}}))
    options = ["sampler=advised", f"advice='{tmp_path}/advice.json'", "sampler.steps=8"]
    config = configure("evaluation=task", *options, name=command)
    assert instantiate(config.sampler) == chosen
    assert instantiate(config.evaluation.task).sampler == chosen
    assert ignored_options(config) == {"schedule"}  # no axis of a sweep: the file has one
    with pytest.raises(ConfigCompositionException):
        configure(*options, "order=random", name=command)


def test_orders_to_compare():
    """Each by its name, with options of its own; none by default."""
    assert instantiate(configure("evaluation=advise", name="evaluate").evaluation.advise).samplers == [mdlm_ancestral()]
    names = choices("orders")
    assert names == choices("order")
    options = ["sampler=expected_random", f"orders=[{','.join(names)}]", "orders.minimum_distance.distance=4"]
    advise = instantiate(configure("evaluation=advise", *options, name="evaluate").evaluation.advise)
    assert advise.samplers[0] == expected_random()
    orders = [sampler.order for sampler in advise.samplers]
    assert {type(order) for order in orders} == {type(instantiate(configure(f"order={name}").order)) for name in names}
    assert MinimumDistance(4) in orders
    assert all(replace(sampler, order=Random()) == expected_random() for sampler in advise.samplers)


def test_what_evaluate_and_sweep_share_is_equal():
    """A cell of a sweep is an evaluation with the same options: their defaults must not drift apart."""
    evaluate, sweep = (OmegaConf.to_container(configure(name=name)) for name in ("evaluate", "sweep"))
    assert isinstance(evaluate, dict)
    assert isinstance(sweep, dict)
    for key in evaluate.keys() - {"evaluation", "schedule", "run_dir", "export", "compare"}:
        assert evaluate[key] == sweep[key], key


@pytest.mark.parametrize("name", ["train", "evaluate", "sweep"])
def test_nothing_is_left_to_fill_in(name):
    config = configure(name=name)
    # The loggers refer to Hydra's output folder, which exists only while a command runs.
    config = OmegaConf.masked_copy(config, [key for key in config if key != "logger"])
    assert not OmegaConf.missing_keys(config)
    OmegaConf.to_container(config, resolve=True)
