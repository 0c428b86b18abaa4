"""What of a net moves: all, the last layer, the norm layers; its own rate; a last layer on stored features."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from cgankd.config import Config, ConfigError, FitConfig
from cgankd.config.nets import NETS, ZOOS
from cgankd.data.batches import Mixture
from cgankd.fit.head import HeadFeed, features, fit_head
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_optimizer, make_predict, mean_score
from cgankd.fit.tuning import freeze, head_name, head_rates, norm_parameters
from cgankd.labels.task import make_task
from cgankd.nets.predictors.external import make_external
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_body, make_predictor
from cgankd.rng import seed_all
from tests.fit.test_predictor import INFO, Memory, fit_config, toy

TUNED = {"weights": "w.pt", "num_steps": 60, "learning_rate": 0.01}


def fresh(name: str = "resnet8") -> Predictor:
    seed_all(3)
    net = make_predictor(name, NetShape(2, 1, 16), width=None, mean=(0.5,), std=(0.25,))
    with torch.no_grad():
        for _ in range(20):
            net(torch.rand(16, 1, 16, 16))
    return net.train()


def mixture(batch_size: int = 8) -> Mixture:
    return Mixture(toy(), None, real_share=None, batch_size=batch_size, seed=1)


def plain_view(unit: Tensor, gen: torch.Generator) -> Tensor:
    return unit


def shifted(unit: Tensor, gen: torch.Generator) -> Tensor:
    return unit + 0.05 * torch.randn(unit.shape, generator=gen)


def trained(config: Config, cfg: FitConfig) -> Predictor:
    net = fresh()
    fit_predictor(net, Plain(make_task(INFO, config)), Feed(mixture().batch, plain_view), cfg, Loop(1))
    return net


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    state = after.state_dict()
    return {key for key, value in before.state_dict().items() if not torch.equal(value, state[key])}


@pytest.mark.parametrize("name", [*NETS, *(f"{zoo}:{net}" for zoo in ("utkface", "rc49") for net in ZOOS[zoo].nets)])
def test_the_last_layer_is_the_head(name: str) -> None:
    size = ZOOS[name.partition(":")[0]].image_size if ":" in name else 16
    body = make_body(
        name, NetShape(1, 3, size), width=8 if name in ("convnet", "plain-vgg", "ds-cnn", "tiny-mobilenet") else None
    ).eval()
    with torch.no_grad():
        head = body.outputs(torch.rand(1, 3, size, size)).head  # type: ignore[operator]
    assert head is not None and body.get_submodule(head_name(body)) is head


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("torchvision:resnet18", "net.fc"),
        ("torchvision:squeezenet1_1", "net.classifier.1"),
        ("timm:test_efficientnet", "net.classifier"),
        ("timm:test_vit", "net.head"),
    ],
)
def test_the_last_layer_of_nets_of_libraries(name: str, last: str) -> None:
    size = 160 if name.endswith("vit") else 64
    assert head_name(make_external(name, NetShape(3, 3, size))) == last


def test_norm_layers_are_found_in_libraries_too() -> None:
    for name, layers in (("torchvision:resnet18", 20), ("timm:test_efficientnet", None), ("timm:test_vit", None)):
        net = make_external(name, NetShape(3, 3, 160))
        found = norm_parameters(net)
        named = {id(p): key for key, p in net.named_parameters()}
        assert found and all(named[id(p)].endswith(("weight", "bias")) and p.ndim == 1 for p in found)
        assert layers is None or len(found) == 2 * layers


def test_only_what_is_tuned_moves(digits_config: Config) -> None:
    start = fresh()
    statistics = {key for key in start.state_dict() if "running" in key or key.endswith("num_batches_tracked")}
    head = {"body.head.weight", "body.head.bias"}
    by_module = {id(p) for p in norm_parameters(start)}
    norms = {key for key, p in start.named_parameters() if id(p) in by_module}
    batch_norms = sum(isinstance(module, nn.BatchNorm2d) for module in start.modules())
    assert batch_norms and len(norms) == 2 * batch_norms
    assert changed(start, trained(digits_config, fit_config(**TUNED, tune="head"))) == head
    assert changed(start, trained(digits_config, fit_config(**TUNED, tune="norms"))) == head | norms | statistics
    whole = trained(digits_config, fit_config(**TUNED))
    assert changed(start, whole) == set(start.state_dict()) - {"mean", "std"}
    assert all(p.requires_grad for p in whole.parameters())


def test_what_was_frozen_can_move_afterwards(digits_config: Config) -> None:
    net = trained(digits_config, fit_config(**TUNED, tune="head"))
    assert all(p.requires_grad for p in net.parameters()) and freeze(net, "all") == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_last_layer_has_its_own_rate(digits_config: Config, optimizer: str) -> None:
    """One step: that of the last layer is ten times as long, that of all others as it was."""

    def steps(rate: float) -> dict[str, Tensor]:
        net = fresh()
        before = {key: p.detach().clone() for key, p in net.named_parameters()}
        cfg = fit_config(num_steps=1, weight_decay=0.0, optimizer=optimizer, schedule="constant", head_rate=rate)
        fit_predictor(net, Plain(make_task(INFO, digits_config)), Feed(mixture().batch, plain_view), cfg, Loop(1))
        return {key: p.detach() - before[key] for key, p in net.named_parameters()}

    plain, fast = steps(1.0), steps(10.0)
    assert all(float(step.abs().max()) > 0 for step in plain.values())
    for key, step in plain.items():
        factor = 10.0 if "head" in key else 1.0
        torch.testing.assert_close(fast[key], factor * step, rtol=1e-3, atol=1e-6)


def test_the_optimizer_is_as_before_where_nothing_is_tuned() -> None:
    net = fresh()
    assert head_rates(net, 1.0) == []
    assert len(make_optimizer(net, fit_config(), rates=head_rates(net, 1.0)).param_groups) == 2


def fitted(config: Config, cfg: FitConfig, memory: Memory | None = None) -> tuple[Predictor, list[dict[str, float]]]:
    net, task, seen = fresh(), make_task(INFO, config), list[dict[str, float]]()

    def log(step: int, values: Mapping[str, float], total: int) -> None:
        seen.append(dict(values))

    feed = HeadFeed(mixture(), shifted if cfg.head_views > 1 else plain_view, toy().images)
    loop = Loop(1, log=log, checkpoint=memory)
    fit_head(net, task, feed, cfg, loop, lambda predict: mean_score(task, predict, toy()))
    return net, seen


@pytest.mark.parametrize("rate", [1.0, 5.0])
def test_a_head_on_stored_features_ends_where_the_loop_does(digits_config: Config, rate: float) -> None:
    """The ordinary loop, which passes the images through the frozen net at every step, is the reference."""
    cfg = fit_config(**TUNED, tune="head", head_views=1, head_rate=rate)
    (net, seen), wanted = fitted(digits_config, cfg), trained(digits_config, cfg)
    assert changed(fresh(), net) == {"body.head.weight", "body.head.bias"}
    torch.testing.assert_close(net.body.head.weight, wanted.body.head.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.body.head.bias, wanted.body.head.bias, rtol=1e-4, atol=1e-5)
    score = mean_score(make_task(INFO, digits_config), make_predict(net, "fp32"), toy())
    assert seen[-1]["val"] == score < seen[0]["loss"] * 100


def test_the_features_tell_how_far_they_are(digits_config: Config) -> None:
    """Of all images to pass: those of validation once, those of training in each view."""
    told: list[tuple[int, int]] = []

    def shown(step: int, values: Mapping[str, float], total: int) -> None:
        assert not values, "it is no curve"
        told.append((step, total))

    cfg = fit_config(**TUNED, tune="head", head_views=3)
    feed = HeadFeed(mixture(), shifted, toy().images, shown)
    fit_head(fresh(), make_task(INFO, digits_config), feed, cfg, Loop(1), lambda predict: 0.0)
    total = 4 * len(toy().images)
    assert told[-1] == (total, total) and {total for _, total in told} == {told[-1][1]}
    assert [step for step, _ in told] == sorted({step for step, _ in told}) and len(told) == 4


def test_views_are_drawn_once_and_each_differs(digits_config: Config) -> None:
    cfg = fit_config(**TUNED, tune="head", head_views=3)
    net = fresh().eval()
    feature_VNF = features(net, toy().images, shifted, cfg, Loop(1))
    assert feature_VNF.shape == (3, 64, 64)
    assert torch.equal(feature_VNF, features(net, toy().images, shifted, cfg, Loop(1)))
    assert not torch.equal(feature_VNF[0], feature_VNF[1])
    assert not torch.equal(feature_VNF, features(net, toy().images, shifted, cfg, Loop(2)))
    first, second = (fitted(digits_config, cfg)[0] for _ in range(2))
    assert changed(first, second) == set()


def test_a_killed_head_goes_on(digits_config: Config) -> None:
    cfg = fit_config(**TUNED | {"num_steps": 450}, tune="head", head_views=2)
    straight = fitted(digits_config, cfg)[0]
    memory = Memory(kill_after=2)
    with pytest.raises(KeyboardInterrupt):
        fitted(digits_config, cfg, memory)
    memory.kill_after = None
    assert memory.state is not None and memory.state["step"] == 400
    assert changed(straight, fitted(digits_config, cfg, memory)[0]) == set()


def test_a_net_without_a_linear_head_is_refused(digits_config: Config) -> None:
    cfg = fit_config(**TUNED, tune="head", net="torchvision:squeezenet1_1", width=None)
    net = Predictor(make_external(cfg.net, NetShape(2, 1, 32)).eval(), (0.5,), (0.25,), 32)
    with pytest.raises(ConfigError, match="whose last layer is linear, and torchvision:squeezenet1_1 has none"):
        features(net, toy().images, None, cfg, Loop(1))
