"""The training step: what it waits for, and the same numbers whatever the device and the precision."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.diffusion.masking import IndependentMasking, MaskedBatch, seeded_generator
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.ema import ExponentialMovingAverage
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.optimizer import AdamW, Constant
from mdm_lightning.training.progress import ProgressBar
from mdm_lightning.training.scalars import ScalarLog
from mdm_lightning.training.throughput import Throughput

D, LENGTH, BATCH = 13, 16, 8
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", CUDA]


def dit(**options) -> DiT:
    return randomised(DiT(D, LENGTH, hidden_size=32, depth=2, heads=2, cond_dim=8, **options))


def llama() -> Llama:
    sizes = {"hidden_size": 32, "depth": 2, "heads": 4, "key_value_heads": 2, "mlp_size": 48}
    other = {"rope_theta": 1e4, "norm_eps": 1e-5, "activation_checkpointing": True}
    return randomised(Llama(D, LENGTH, rows=D + 1, mask_row=D, **sizes, **other))


def randomised(denoiser):
    """Random numbers in all weights: those that start at zero would hide what they are multiplied by."""
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return denoiser


def module(denoiser: Denoiser | None = None, **options) -> MaskedDiffusion:
    return MaskedDiffusion(denoiser or dit(), AdamW(lr=1e-3), Constant(), **options)


def batches(count: int, padded: bool = False) -> list[MaskedBatch]:
    """Their numbers of masked rows differ, as they do in training."""
    process = IndependentMasking(LinearSchedule(), StratifiedTimes())
    made = []
    for number in range(count):
        generator = seeded_generator(0, number)
        tokens = torch.randint(D, (BATCH, LENGTH), generator=generator)
        maskable = torch.ones_like(tokens, dtype=torch.bool)
        maskable[:, -3:] = not padded
        batch = process(tokens, maskable, D, generator)
        made.append(batch._replace(padding=~maskable) if padded else batch)
    return made


def fit(
    trained: MaskedDiffusion, device: str, steps: int, precision: str = "32-true", callbacks: tuple[Callback, ...] = ()
) -> list[float]:
    """Trains, and returns the norms of the gradients."""
    norms = Norms()
    plugins = [MixedPrecision(precision, device, scaler=scaler(precision, device))] if "mixed" in precision else []
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, max_steps=steps, gradient_clip_val=1.0,
        plugins=plugins, callbacks=[*callbacks, norms], logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
    )  # fmt: skip
    loader = DataLoader(batches(steps), batch_size=None, pin_memory=device == "cuda")  # pyright: ignore[reportArgumentType]
    trainer.fit(trained, loader)
    return torch.stack(norms.seen).tolist()


def scaler(precision: str, device: str) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler(device, init_scale=2.0**12) if precision == "16-mixed" else None


class Norms(Callback):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args, **kwargs) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        self.seen.append(pl_module.gradient_norm)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("make", [dit, lambda: dit(time_conditioning=True, tie_weights=True), llama])
def test_a_step_asks_the_device_nothing_and_mixes_no_devices(make, padded):
    """On the meta device, whose tensors have no values to wait for and meet no tensors of another device."""
    trained = module(make())
    trained.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained.to("meta").on_train_start()
    batch = batches(1, padded)[0].to(torch.device("meta"))
    trained.training_step(batch, 0).backward()
    trained.configure_gradient_clipping(optimizer, 1.0)
    assert trained.gradient_norm.is_meta
    trained.validation_step(batch, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 0.05), ("16-mixed", 0.05)])
def test_gradients_are_those_of_float32_on_the_cpu(precision, tolerance, device):
    """Under a loss scale too, which a fused optimiser would divide by only after the gradients were clipped."""
    expected = fit(module(), "cpu", 3)
    assert fit(module(), device, 3, precision) == pytest.approx(expected, rel=tolerance)


class NoWaiting(Callback):
    """From the third step on, waiting for the GPU is an error, but for the end of a step at which something is logged.

    The first callback, so that the others are watched.
    """

    def __init__(self, logged_every: int) -> None:
        self.logged_every = logged_every

    def on_train_batch_start(self, trainer: Trainer, *args) -> None:
        self._mode(trainer, "error" if trainer.global_step >= 2 else "default")

    def on_train_batch_end(self, trainer: Trainer, *args) -> None:
        if trainer.global_step % self.logged_every == 0:
            self._mode(trainer, "default")

    def on_exception(self, trainer: Trainer, *args) -> None:
        self._mode(trainer, "default")

    def _mode(self, trainer: Trainer, mode: str) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)


class Shown(MaskedDiffusion):
    """Notes where the values lie that the progress bar is given: Lightning reads them after every step."""

    places: set[str]

    def log(self, name, value, *args, **options) -> None:
        self.places = {*getattr(self, "places", ()), value.device.type if isinstance(value, torch.Tensor) else "number"}
        super().log(name, value, *args, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_steps_do_not_wait_for_the_device(precision, device):
    """Whole steps of the trainer, from the batch's way to the device to the progress bar, where nothing is logged."""
    trained = Shown(dit(), AdamW(lr=1e-3), Constant())
    callbacks = NoWaiting(4), ScalarLog(4), Throughput(4, BATCH * LENGTH, LENGTH), ExponentialMovingAverage(0.9)
    fit(trained, device, 8, precision, (*callbacks, ProgressBar()))
    assert trained.places == {"cpu"}


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_denoiser_is_compiled_once_and_trains_the_same(device, monkeypatch):
    """However many rows are masked. (On the CPU without inductor, which would take half a minute.)"""
    if device == "cpu":
        monkeypatch.setattr(DiT, "compile", lambda self: Denoiser.compile(self, backend="aot_eager"))
    expected = fit(module(), device, 4)
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert fit(module(compile=True), device, 4) == pytest.approx(expected, rel=1e-3)


def test_a_batch_goes_to_a_gpu_without_waiting_and_comes_back_with_it(monkeypatch):
    """``to`` of its tensors, as it is called: a copy back to the CPU that is not waited for has not arrived."""
    asked = []
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, device, non_blocking=False: asked.append((device.type, non_blocking)) or self
    )
    batch = batches(1)[0]
    batch.to(torch.device("cuda"))
    batch.to(torch.device("cpu"))
    assert set(asked) == {("cuda", True), ("cpu", False)}
