"""The one training loop: it learns, resumes bit for bit, keeps pairs of arms on the same draws, and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgankd.config import Config, FitConfig, TeacherConfig
from cgankd.data.batches import Mixture
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, fitting_batch, make_optimizer, make_predict, mean_score
from cgankd.fit.schedule import make_schedule
from cgankd.labels.task import make_task
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.rng import derive, generator, seed_all
from cgankd.types import DatasetInfo, Split

INFO = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.25,), class_names=("left", "right"))


def toy(num: int = 64) -> Split:
    """Noise with a bright left or right half."""
    gen = generator("toy")
    images = torch.randint(0, 120, (num, 1, 16, 16), generator=gen, dtype=torch.uint8)
    labels = torch.arange(num) % 2
    for i, label in enumerate(labels.tolist()):
        images[i, :, :, 8 * label : 8 * label + 8] += 100
    return Split(images, labels)


def fit_config(**changes: object) -> TeacherConfig:
    values: dict[str, object] = {
        "net": "convnet",
        "width": 4,
        "num_steps": 300,
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "weight_decay": 0.01,
        "schedule": "onecycle",
        "augment": "none",
        "precision": "fp32",
    }
    return TeacherConfig(**(values | changes))  # type: ignore[arg-type]


class Memory:
    """A checkpoint in memory that kills the run after a number of saves."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.state: dict[str, object] | None = None
        self.saves, self.kill_after = 0, kill_after

    def load(self) -> dict[str, object] | None:
        return self.state

    def save(self, step: int, state: dict[str, object]) -> None:
        import copy

        self.state = copy.deepcopy(state)
        self.saves += 1
        if self.saves == self.kill_after:
            raise KeyboardInterrupt


def train(config: Config, cfg: FitConfig, checkpoint: Memory | None = None, seed: int = 1) -> torch.nn.Module:
    task = make_task(INFO, config)
    seed_all(seed)
    net = make_predictor(cfg.net, NetShape(2, 1, 16), width=cfg.width, mean=(0.5,), std=(0.25,))
    data = Mixture(toy(), None, real_share=None, batch_size=cfg.batch_size, seed=seed)
    fit_predictor(
        net,
        Plain(task),
        Feed(data.batch, lambda unit, gen: unit + 0.01 * torch.randn(unit.shape, generator=gen)),
        cfg,
        Loop(seed, checkpoint=checkpoint),
    )
    return net


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns_a_separable_toy(digits_config: Config, optimizer: str) -> None:
    net = train(digits_config, fit_config(optimizer=optimizer, learning_rate=0.01))
    assert mean_score(make_task(INFO, digits_config), make_predict(net, "fp32"), toy()) == 0.0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resume_is_bitwise(digits_config: Config, optimizer: str) -> None:
    cfg = fit_config(optimizer=optimizer, num_steps=450)
    straight = train(digits_config, cfg).state_dict()
    memory = Memory(kill_after=2)
    with pytest.raises(KeyboardInterrupt):
        train(digits_config, cfg, memory)
    memory.kill_after = None
    assert memory.state is not None and memory.state["step"] == 400
    resumed = train(digits_config, cfg, memory).state_dict()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_same_seed_same_bytes_other_seed_other_weights(digits_config: Config) -> None:
    cfg = fit_config(num_steps=20)
    first, second = train(digits_config, cfg).state_dict(), train(digits_config, cfg).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = train(digits_config, cfg, seed=2).state_dict()
    assert not torch.equal(first["body.body.0.weight"], other["body.body.0.weight"])


def test_log_has_losses_and_validation(digits_config: Config) -> None:
    seen: list[tuple[int, dict[str, float], int]] = []

    def log(step: int, values: Mapping[str, float], total: int) -> None:
        seen.append((step, dict(values), total))

    task = make_task(INFO, digits_config)
    net = make_predictor("convnet", NetShape(2, 1, 16), width=4, mean=(0.5,), std=(0.25,))
    data = Mixture(toy(), None, real_share=None, batch_size=8, seed=0)
    fit_predictor(
        net,
        Plain(task),
        Feed(data.batch, lambda unit, gen: unit),
        fit_config(num_steps=100),
        Loop(0, log=log),
        validate=lambda n: 7.0,
    )
    assert [s for s, _, _ in seen] == list(range(2, 101, 2)) and {t for _, _, t in seen} == {100}
    assert [s for s, v, _ in seen if "val" in v] == list(range(10, 101, 10))


def test_diverging_loss_is_an_error(digits_config: Config) -> None:
    with pytest.raises(ValueError, match="lower learning_rate"):
        train(digits_config, fit_config(optimizer="sgd", learning_rate=1e20, schedule="constant", num_steps=50))


def test_weight_decay_spares_vectors(digits_config: Config) -> None:
    net = make_predictor("convnet", NetShape(2, 1, 16), width=4, mean=(0.5,), std=(0.25,))
    decayed, plain = make_optimizer(net, fit_config()).param_groups
    assert all(p.ndim > 1 for p in decayed["params"]) and decayed["weight_decay"] == 0.01
    assert all(p.ndim == 1 for p in plain["params"]) and plain["weight_decay"] == 0
    assert len(decayed["params"]) + len(plain["params"]) == len(list(net.parameters()))


def test_schedules() -> None:
    one = [make_schedule("onecycle", 100)(s) for s in range(100)]
    assert np.argmax(one) in (24, 25) and max(one) == 1.0 and one[0] == pytest.approx(1 / 25) and one[-1] < 0.01
    assert make_schedule("cosine", 100)(50) == pytest.approx(0.5)
    assert make_schedule("constant", 100)(99) == 1.0


def test_multistep_is_that_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [15, 25])
    factor = make_schedule("multistep", 35, (15 / 35, 25 / 35))
    for step in range(35):
        assert factor(step) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_predict_runs_in_eval_mode_and_in_chunks(digits_config: Config) -> None:
    net = train(digits_config, fit_config(num_steps=20)).train()
    images = toy(10).images
    whole, pieces = make_predict(net, "fp32")(images), make_predict(net, "fp32", batch_size=3)(images)
    torch.testing.assert_close(whole, pieces)
    assert net.training
    assert dataclasses.is_dataclass(INFO) and derive(1, "a") != derive("a", 1)


def test_a_net_that_enlarges_its_images_gets_few_at_a_time_and_answers_the_same() -> None:
    seen: list[int] = []

    class Body(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            seen.append(len(x_BCHW))
            return x_BCHW.mean((2, 3))

    images = torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8)
    small, large = (Predictor(Body(), (0.5,) * 3, (0.2,) * 3, size).eval() for size in (None, 96))
    assert fitting_batch(large) == 32 and fitting_batch(nn.ModuleList([small, large])) == 32
    found = make_predict(large, "fp32")(images)
    assert seen == [32, 32, 32, 4]
    assert torch.allclose(found, large(images.float() / 255), atol=1e-6)
    seen.clear()
    make_predict(small, "fp32")(images)
    assert seen == [100]
    assert fitting_batch(Predictor(Body(), (0.5,), (0.2,), 4000)) == 8
