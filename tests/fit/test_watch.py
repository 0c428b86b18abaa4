"""Numbers that are not finite: seen, undone once from the last good state at half the rate, and the second time the end."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cgankd.gan.embed as embed_module
import cgankd.gan.train as gan_module
import cgankd.ratio.density_ratio as ratio_module
import cgankd.ratio.features as features_module
from cgankd.config import Config
from cgankd.data.batches import Mixture
from cgankd.fit.device import Plan
from cgankd.fit.head import HeadFeed, fit_head
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict, mean_score
from cgankd.fit.watch import NAMED, NotFinite, Watch, named, not_finite, slow_down, sound, with_setback
from cgankd.labels.task import make_task
from cgankd.nets.features import FeatureNet
from cgankd.nets.gans.label_embed import ClassEmbed
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.features import Reals
from cgankd.rng import seed_all
from cgankd.types import Diverged
from tests.bank.toys import class_task, ratio_config
from tests.fit.test_predictor import INFO, fit_config, toy
from tests.gan.toys import class_toy, gan_config, label_input, scalar_toy
from tests.ratio.test_density_ratio import class_source, reals
from tests.ratio.test_features import patches, plain

STEPS, EVERY = 16, 4
"""Steps of each training here, and between two saves."""
BAD = 11
"""The step whose loss is made NaN: the last good state is that after 8."""


class Kept:
    """A checkpoint in memory, which copies as a file would; a kill comes after the save of a step."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.state: dict[str, Any] | None = None
        self.steps: list[int] = []
        self.kill_after = kill_after

    def load(self) -> dict[str, object] | None:
        return copy.deepcopy(self.state)

    def save(self, step: int, state: dict[str, object]) -> None:
        self.state = copy.deepcopy(state)
        self.steps.append(step)
        # The first save of 8 is that of the plain run, the second one that of the mark.
        if step == self.kill_after and "setback" in state:
            self.kill_after = None
            raise KeyboardInterrupt


class Poison:
    """Makes the loss of given calls of a function NaN, counted over all attempts."""

    def __init__(self, function: Callable[..., Any], calls: tuple[int, ...]) -> None:
        self.function, self.calls, self.count = function, calls, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self.function(*args, **kwargs)
        self.count += 1
        if self.count not in self.calls:
            return found
        if isinstance(found, Tensor):
            return found * float("nan")
        if isinstance(found, tuple):
            return (found[0] * float("nan"), *found[1:])
        return {**found, "loss": found["loss"] * float("nan")}


Run = Callable[[Loop, pytest.MonkeyPatch, tuple[int, ...], float], dict[str, Tensor]]


def predictor(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    task = class_task(2)
    seed_all(1)
    net = make_predictor("convnet", NetShape(2, 1, 16), width=4, mean=(0.5,), std=(0.25,))
    data = Mixture(toy(), None, real_share=None, batch_size=8, seed=1)
    objective = Plain(task)
    patch.setattr(Plain, "__call__", Poison(objective.__call__, calls))
    cfg = fit_config(num_steps=STEPS, learning_rate=0.003 * rate, optimizer="sgd")
    fit_predictor(net, objective, Feed(data.batch, lambda unit, gen: unit), cfg, loop)
    return net.state_dict()


def head(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    task = class_task(2)
    seed_all(1)
    net = make_predictor("resnet8", NetShape(2, 1, 16), width=None, mean=(0.5,), std=(0.25,))
    data = Mixture(toy(), None, real_share=None, batch_size=8, seed=1)
    patch.setattr(type(task), "loss", Poison(task.loss, calls))
    cfg = fit_config(num_steps=STEPS, learning_rate=0.003 * rate, weights="w.pt", tune="head", optimizer="sgd")
    feed = HeadFeed(data, lambda unit, gen: unit, toy().images)
    fit_head(net, task, feed, cfg, loop, lambda predict: mean_score(task, sound(predict), toy()))
    return net.state_dict()


def gan(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    train, task = class_toy()
    seed_all("embed")
    cfg = gan_config(num_steps=STEPS, width=4, batch_size=8, lr_g=1e-3 * rate, lr_d=1e-3 * rate, ema_start=2)
    d_loss, g_loss = gan_module.LOSSES["hinge"]
    patch.setitem(gan_module.LOSSES, "hinge", (d_loss, Poison(g_loss, calls)))
    net, embed, _ = gan_module.train_cgan(train, task, task.vicinity(train.labels), task.label_embed(8), cfg, loop)
    return nn.ModuleDict({"net": net, "embed": embed}).state_dict()


def labels(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    train, task = scalar_toy()
    seed_all("embed")
    embed = task.label_embed(16)
    patch.setattr(embed_module, "label_loss", Poison(embed_module.label_loss, calls))
    cfg = label_input(image_steps=STEPS // 2, label_steps=STEPS // 2, batch_size=8, learning_rate=2e-3 * rate)
    embed_module.fit_label_embed(embed, task, train, cfg, loop)
    return embed.state_dict()


def features(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    seed_all(0, "net")
    net = FeatureNet(1, 16, 8, 32, 2, decode=True)
    cfg = ratio_config(feature_steps=STEPS, feature_learning_rate=1e-3 * rate)
    patch.setattr(features_module, "feature_loss", Poison(features_module.feature_loss, calls))
    features_module.train_features(net, Reals(patches(64, 0), patches(40, 1)), class_task(2), cfg, plain, loop)
    return net.state_dict()


def ratio(loop: Loop, patch: pytest.MonkeyPatch, calls: tuple[int, ...], rate: float) -> dict[str, Tensor]:
    seed_all(0, "fit")
    mlp, embed = RatioMLP(8, 1, (16,), dropout=0.0), ClassEmbed(2, 8)
    train, val = reals(64, 1), reals(32, 2)
    cfg = ratio_config(
        num_steps=STEPS, batch_size=16, learning_rate=1e-3 * rate, pool_size=64, eval_every_steps=10 * STEPS
    )
    patch.setattr(ratio_module, "ratio_loss", Poison(ratio_module.ratio_loss, calls))
    nets = ratio_module.RatioNets(mlp, embed)
    ratio_module.train_ratio(nets, class_source(train), Reals(train, val), class_task(2), cfg, loop)
    return nn.ModuleDict({"mlp": mlp, "embed": embed}).state_dict()


RUNS: dict[str, Run] = {
    "predictor": predictor, "head": head, "gan": gan, "labels": labels, "features": features, "ratio": ratio,
}  # fmt: skip


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", RUNS)
def test_a_loss_that_is_no_number_once_is_undone_and_the_training_ends(name: str) -> None:
    """It goes on from the last good state at half the rate, says so, and ends as one that is killed right then."""
    run = RUNS[name]
    found = []
    for kept, calls in ((Kept(), (BAD,)), (None, (BAD,)), (Kept(), ())):
        said: list[str] = []
        loop = Loop(1, Plan(say=said.append), checkpoint=kept, save_every=EVERY)
        with pytest.MonkeyPatch.context() as patch:
            found.append(run(loop, patch, calls, 1.0))
        setback = loop.course.setback
        if not calls:
            assert setback is None and loop.rate == 1.0 and said == [], "an undisturbed run says nothing"
            continue
        assert setback is not None and loop.rate == 0.5
        assert (setback.step, setback.back_to) == (BAD, 8 if kept else 0)
        assert setback.found.startswith("loss nan") and len(said) == 1 and f"at step {BAD} (loss nan" in said[0]
        assert kept is None or (kept.state is not None and kept.state["setback"]["step"] == BAD)
        assert not not_finite(found[-1])
    assert not same(found[0], found[2]), "half the rate is another training"

    for kill in (8, 12):
        kept = Kept(kill_after=kill)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            run(Loop(1, checkpoint=kept, save_every=EVERY), patch, (BAD,), 1.0)
        with pytest.MonkeyPatch.context() as patch:
            loop = Loop(1, checkpoint=kept, save_every=EVERY)
            again = run(loop, patch, (), 1.0)
        assert loop.rate == 0.5 and same(again, found[0]), f"killed after the save of step {kill}"


@pytest.mark.parametrize("name", RUNS)
def test_the_second_time_it_stops_with_step_and_tensors(name: str) -> None:
    run, kept = RUNS[name], Kept()
    second = BAD + (12 - 8)  # step 12 of the second attempt, which begins after step 8
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged) as caught:
        run(Loop(1, checkpoint=kept, save_every=EVERY), patch, (BAD, second), 1.0)
    text = str(caught.value)
    assert type(caught.value) is Diverged and re.match(
        r"(ratio\.|cgan\.label_input\.)?(feature_)?learning_rate|cgan\.lr_g", text
    )
    assert (
        "not finite at step 12 (loss nan" in text
        and f"were so at step {BAD} before the rate was halved; lower " in text
    )
    # A process after it goes on from the state saved with the mark, and stops at once where it fails again.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged, match=f"were so at step {BAD} before"):
        run(Loop(1, checkpoint=kept, save_every=EVERY), patch, tuple(range(1, 20)), 1.0)


@pytest.mark.parametrize("name", RUNS)
def test_a_huge_rate_stops_and_leaves_no_bad_state(name: str) -> None:
    """Weights are named that are no numbers any more, and what was saved on the way is good."""
    kept = Kept()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged, match="before the rate was halved"):
        RUNS[name](Loop(1, checkpoint=kept, save_every=1), patch, (), 1e38)
    assert kept.state is None or not not_finite(kept.state)


def test_one_step_to_weights_whose_outputs_are_no_numbers_is_no_success(digits_config: Config) -> None:
    """The loss is of the weights before the step, and those after it are still finite: only their outputs are not."""
    task = make_task(INFO, digits_config)
    seed_all(1)
    net = make_predictor("convnet", NetShape(2, 1, 16), width=4, mean=(0.5,), std=(0.25,))
    data = Mixture(toy(), None, real_share=None, batch_size=8, seed=1)
    cfg = fit_config(num_steps=1, learning_rate=1e30, schedule="constant")
    validate = lambda n: mean_score(task, sound(make_predict(n, "fp32")), toy())  # noqa: E731
    with pytest.raises(Diverged, match=r"at step 1 \(outputs of \d+ of 64 images\), and were so at step 1"):
        fit_predictor(net, Plain(task), Feed(data.batch, lambda u, g: u), cfg, Loop(1), validate=validate)


@pytest.mark.parametrize(
    ("part", "value"),
    [("weight", math.inf), ("weight", -math.inf), ("running_var", math.nan), ("running_mean", math.inf)],
)
def test_a_state_that_is_not_finite_is_not_saved_and_named(part: str, value: float) -> None:
    net, kept = nn.BatchNorm1d(3), Kept()
    watch = Watch(Loop(0, checkpoint=kept), lambda: {"net": net.state_dict(), "ema": {"net": net.state_dict()}})
    watch.save(1, {"step": 1, "net": net.state_dict()})
    with torch.no_grad():
        getattr(net, part)[1] = value
    for check in (watch.check_state, lambda: watch.save(2, {"step": 2, "net": net.state_dict()})):
        with pytest.raises(NotFinite, match=rf"net\.{part}, ema\.net\.{part}"):
            check()
    assert kept.steps == [1]


def test_large_numbers_whole_numbers_and_empty_tensors_are_fine() -> None:
    state = {
        "a": torch.full((9,), 3e38),
        "b": [torch.tensor([1]), torch.empty(0)],
        "c": {"d": torch.tensor(1.0)},
        "e": None,
    }
    assert not_finite(state) == []
    state["b"] = {0: torch.tensor([1.0, -math.inf]), 1: torch.tensor(math.nan, dtype=torch.bfloat16)}
    assert not_finite(state) == ["b.0", "b.1"]


def test_names_are_few() -> None:
    assert named(["a", "b"]) == "a, b" and named([*"abcdef"]) == "a, b, c and 3 more tensors" and NAMED == 3


def test_losses_of_a_device_are_looked_at_now_and_then_only() -> None:
    """On another device than the processor a loss is summed; what was infinite in between is seen at the next look."""
    watch = Watch(Loop(0), dict)
    watch.sum = torch.tensor(0.0)
    watch.sum = watch.sum + torch.tensor(math.inf)
    with pytest.raises(NotFinite, match="loss inf"):
        watch.check()
    watch.check({"loss": 1.0})
    meta = torch.zeros((), device="meta")
    watch.see(meta, 3)  # reading it would fail
    assert watch.sum is not None and watch.sum.device.type == "meta" and watch.loop.course.step == 3


def test_an_error_that_bad_weights_brought_about_counts_as_such() -> None:
    def refuse() -> None:
        raise RuntimeError("linalg.svd: the input has non-finite values")

    bad = Watch(Loop(0), lambda: {"w": torch.tensor(math.nan)})
    with pytest.raises(NotFinite):
        bad.around(refuse)
    with pytest.raises(RuntimeError, match=r"linalg\.svd"):
        Watch(Loop(0), dict).around(refuse)


def test_other_errors_pass_and_weights_come_back_as_they_were() -> None:
    net, seen = nn.Linear(2, 2), []
    before = copy.deepcopy(net.state_dict())

    def train() -> None:
        seen.append(same(net.state_dict(), before))
        with torch.no_grad():
            net.weight.fill_(math.nan)
        raise NotFinite("all") if len(seen) < 3 else ValueError

    with pytest.raises(Diverged, match="lower x"):
        with_setback(Loop(0), "x", [net], train)
    assert seen == [True, True]
    with pytest.raises(ValueError, match="^$"):
        with_setback(Loop(0), "x", [net], train)


def test_a_rate_is_a_share_of_the_one_an_optimiser_was_made_with() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], 0.5)
    other = torch.optim.Adam([nn.Parameter(torch.zeros(1))], 0.1)
    optimizer.load_state_dict(other.state_dict())
    slow_down([nn.Linear(1, 1), optimizer], 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.25
