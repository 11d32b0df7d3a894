"""What a user has without a clone: the package from Python, and its commands from a wheel."""

import html
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mdm_lightning as mdm
from mdm_lightning.api.model import Model
from mdm_lightning.data.tasks.toy import Extremes
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NoData
from tests.commands.conftest import REPOSITORY, Outcome, variables
from tests.denoiser.published import mdlm, write_with_tokenizer
from tests.patience import SECONDS


@pytest.fixture
def model(text_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("MDM_CACHE", str(cache))
    return mdm.load(text_model, device="cpu")


def test_importing_costs_nothing_and_shows_what_is_public():
    code = "import sys, mdm_lightning as mdm; print('torch' in sys.modules, *dir(mdm))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    loaded, *names = shown.stdout.split()
    assert loaded == "False"
    assert set(names) == {*mdm.__all__, "__version__"}
    for name in mdm.__all__:
        public = getattr(mdm, name)
        assert public.__doc__
        for member in getattr(public, "__all__", ()):
            assert getattr(public, member).__doc__
    with pytest.raises(AttributeError, match="no attribute 'sample'"):
        mdm.sample  # noqa: B018


def test_the_five_lines_of_the_readme(model, text_model, tmp_path, monkeypatch, capsys):
    readme = (REPOSITORY / "README.md").read_text()
    block = next(code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "mdm.load" in code)
    code = re.sub(r'mdm\.load\("[^"]*"\)', f"mdm.load({str(text_model)!r})", block)
    code = code.replace("model.advise(", "advice = model.advise(sequences=8, ")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed.startswith("def main(")
    assert re.search(r"\d\.\d{4} ± \d\.\d{4} nats per token", printed)


def test_samples_depend_on_the_seed_alone(model):
    few, many = model.sample("to be ", n=2, steps=4), model.sample("to be ", n=5, steps=4, batch_size=2)
    assert list(few) == list(many)[:2]
    assert all(text.startswith("to be ") for text in many)
    assert list(model.sample("to be ", n=2, steps=4, seed=1)) != list(few)
    assert many.tokens.shape == (5, model.length)
    assert repr(few).startswith("Texts(2 of ")
    assert html.escape(few[0]) in few._repr_html_()
    filled = model.sample("to ", " be", sampler=mdm.samplers.llada(block_length=8), schedule=mdm.schedules.Cosine())
    assert filled[0].startswith("to ")
    assert filled[0].endswith(" be")
    assert str(filled) == filled[0]


def test_the_nelbo_of_texts(model):
    """One token is scored exactly; a text's bound does not depend on its company; long texts are cut."""
    exact = model.nelbo("a")
    denoiser, canvas = model.denoiser, torch.tensor([[model.tokenizer.mask_id]])
    with torch.inference_mode():
        losses = denoiser.cross_entropy(denoiser(canvas).flatten(0, 1), torch.tensor(model.tokenizer.encode("a")))
    assert exact.value == pytest.approx(float(losses), rel=1e-5)
    assert exact.stderr == 0
    both = model.nelbo(["to be or not to be", "a"], draws=16)
    assert both.nats[1] == pytest.approx(exact.nats[0])
    assert both.value == pytest.approx(both.nats.sum() / both.tokens.sum())
    assert np.exp(both.value) == pytest.approx(both.perplexity)
    assert "2 texts" in str(both) == repr(both) or "2 texts" in str(both)
    assert "<table>" in both._repr_html_()
    assert model.nelbo("to be " * 40, draws=4).tokens[0] == 240 > model.length
    for nothing in ([], "", ["a", ""]):
        with pytest.raises(ValueError, match="at least one text"):
            model.nelbo(nothing)


def test_profile_and_advice(model):
    profile = model.profile(sequences=8, knots=5)
    assert isinstance(profile, LossProfile)
    assert repr(profile).startswith(f"LossProfile({model.length} positions, 5 knots: ")
    advice = model.advise([2, 4], sequences=8, sampler=mdm.samplers.expected_random())
    assert isinstance(advice.schedule(4), mdm.schedules.Beta)
    assert str(advice).count("\n") == 3
    assert "<th>best Beta</th>" in advice._repr_html_()
    assert len(advice.plot().axes) == 2
    own = model.profile(["to be or not to be, " * 40], knots=5)
    assert own.length == model.length
    with pytest.raises(UserError, match="needs two sequences"):
        model.profile(["too short"])


def test_advice_for_an_order_that_looks_is_checked(model):
    chosen = mdm.samplers.expected_confidence(tokens=mdm.samplers.TokenSampler())
    texts = [" ".join(f"{a} plus {b} is {a + b}" for b in range(40)) for a in range(20)]
    race = mdm.evaluations.Race(instances=10, first=5, confirm=10)
    advice = model.advise([2], texts, sampler=chosen, sequences=8, race=race)
    assert advice.sampler(2).order == chosen.order
    assert advice.schedule(2) == advice.sampler(2).schedule
    assert "2 steps: " in str(advice)
    assert "policy nats per token" in advice._repr_html_()
    assert len(advice.plot().axes) == 1
    with pytest.raises(KeyError):
        advice.schedule(3)
    both = model.advise(steps=[2], texts=texts, orders=[mdm.orders.Spaced(), chosen], sequences=8, race=race)
    proposed = {type(proposal.sampler.order) for proposal in both.found[0].proposals}
    assert proposed == {mdm.orders.Random, mdm.orders.Spaced, mdm.orders.Confidence}
    assert str(both).startswith("2 steps: ")
    with pytest.raises(UserError, match="greedy sampler of text"):
        model.advise([2], texts, sampler=mdm.samplers.expected_confidence(), sequences=8)


def test_published_models_and_distributions(tmp_path):
    write_with_tokenizer(mdlm(), tmp_path)
    model = mdm.load(tmp_path, device="cpu", dtype=torch.float64)
    assert next(model.denoiser.parameters()).dtype == torch.float64
    assert "MDLM" not in repr(model)
    assert "DiT" in repr(model)
    with pytest.raises(NoData, match="give texts"):
        model.profile()
    distribution = mdm.load(Extremes(length=4, train=1, validation=4, seed=0), device="cpu")
    assert set(distribution.sample(n=20, sampler=mdm.samplers.first_hitting())) == {"aaaa", "bbbb"}
    assert distribution.nelbo("aaaa").value == pytest.approx(np.log(2) / 4)


def test_what_cannot_be_loaded(tmp_path, text_model):
    with pytest.raises(UserError, match="does not exist"):
        mdm.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="has its tokenizer"):
        mdm.load(text_model, revision="main")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of this package installs, console scripts aside."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, timeout=SECONDS, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_in_an_empty_folder(installed, corpus, cache, tmp_path):
    """It trains, evaluates and sweeps, on two processes too, and says what to type next as it was called itself."""
    entry_points = next(installed.glob("*.dist-info")) / "entry_points.txt"
    assert "mdm-train = mdm_lightning.cli:train" in entry_points.read_text()
    assert (installed / "mdm_lightning/py.typed").exists()
    environment = variables(cache) | {"PYTHONPATH": str(installed)}

    def run(*arguments: str) -> Outcome:
        command = [sys.executable, "-m", "mdm_lightning", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
        return Outcome(done.returncode, done.stdout, done.stderr)

    trained = run(
        "train", f"data.path={corpus}", "run_dir=run", "model=micro", "tokenizer=byte", "data=files",
        "trainer.accelerator=cpu", "trainer.max_steps=4", "lr_schedule.warmup_steps=1", "training.global_batch_size=4",
        "training.batch_size=2", "training.validate_every=4", "training.validation_sequences=4", "training.samples=0",
        *(["trainer=ddp", "trainer.devices=2"] if len(os.sched_getaffinity(0)) > 1 else []),
    )  # fmt: skip
    assert trained.status == 0, trained.stderr
    assert "python -m mdm_lightning evaluate ckpt=run" in trained.stdout
    swept = run("sweep", "experiment=toy", "schedule.alpha=0.5", "schedule.beta=0.5", "sampler.steps=2", "sweep.dir=s")
    assert swept.status == 0, swept.stderr
    assert (tmp_path / "s/report.html").exists()
    assert "python -m mdm_lightning evaluate needs a checkpoint" in run("evaluate").error
    assert run("tain").status == 1
