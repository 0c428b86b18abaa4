from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.data.pixels import to_signed
from cgankd.fit.device import Plan, autocast
from cgankd.fit.loop import Loop
from cgankd.nets.autoencoders import AutoEncoder
from cgankd.nets.features import FeatureNet, FeatureScale
from cgankd.ratio.features import (
    CHUNK,
    FrozenExtractor,
    Reals,
    feature_loss,
    make_optimizer,
    raw_features,
    reconstruction_error,
    signed_input,
    train_features,
)
from cgankd.rng import generator, seed_all
from cgankd.types import Split
from tests.bank.toys import Interrupted, MemoryCheckpoint, class_task, ratio_config, scalar_task


def patches(num: int, seed: int) -> Split:
    """Class 0 is bright on the left, class 1 on the right, in noise."""
    gen = generator(seed, "patches")
    label_N = torch.arange(num) % 2
    images = torch.randint(0, 120, (num, 1, 16, 16), generator=gen)
    images[label_N == 0, :, 4:12, 2:7] += 120
    images[label_N == 1, :, 4:12, 9:14] += 120
    return Split(images.to(torch.uint8), label_N)


def bars(num: int, seed: int) -> Split:
    """The label in 0..10 is the position of a bright column."""
    gen = generator(seed, "bars")
    label_N = 10 * torch.rand(num, generator=gen)
    at_N11 = (2 + label_N)[:, None, None]
    bright = torch.exp(-0.5 * (torch.arange(16)[None, None, :] - at_N11) ** 2).expand(num, 16, 16)
    return Split((20 + 200 * bright).to(torch.uint8)[:, None], label_N)


def plain(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    return unit_BCHW


def class_fit(checkpoint: MemoryCheckpoint | None) -> tuple[FeatureNet, dict[str, float]]:
    seed_all(0, "net")
    net = FeatureNet(1, 16, 8, 32, 2, decode=True)
    cfg = ratio_config(feature_steps=100, reconstruct_weight=0.5, l1_weight=1e-3)
    noisy = lambda unit, gen: unit + 0.05 * torch.rand(unit.shape, generator=gen)  # noqa: E731
    report = train_features(
        net, Reals(patches(64, 0), patches(40, 1)), class_task(2), cfg, noisy, Loop(4, checkpoint=checkpoint)
    )
    return net, report


@pytest.mark.parametrize(("channels", "size", "decode"), [(1, 16, True), (3, 32, False), (3, 64, True)])
def test_shapes_and_ranges(channels: int, size: int, decode: bool) -> None:
    net = FeatureNet(channels, size, 8, channels * size * size // 4, 5, decode).requires_grad_(False)
    x_BCHW = torch.rand(3, channels, size, size) * 2 - 1
    features_BF, out_BO, recon_BCHW = net(x_BCHW)
    assert features_BF.shape == (3, net.feature_width) == (3, channels * size * size // 4)
    assert out_BO.shape == (3, 5) and bool((features_BF >= 0).all())
    assert (recon_BCHW is not None) == decode
    if recon_BCHW is not None:
        assert recon_BCHW.shape == x_BCHW.shape and float(recon_BCHW.abs().max()) <= 1


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    net, task, split = FeatureNet(1, 16, 8, 32, 2, decode=True).eval(), class_task(2), patches(8, 0)
    cfg = ratio_config(label_weight=0.7, reconstruct_weight=2.0, l1_weight=0.1)
    x_BCHW = to_signed(split.images)
    loss, _ = feature_loss(net, x_BCHW, split.labels, task, cfg)
    features, out, recon = (t.detach().double().numpy() for t in net(x_BCHW))
    log_p = out - np.log(np.exp(out).sum(1, keepdims=True))
    expected = -0.7 * log_p[np.arange(8), split.labels.numpy()].mean()
    expected += 2.0 * ((recon - x_BCHW.numpy()) ** 2).mean() + 0.1 * np.abs(features).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_scale_standardises_and_clamps_like_numpy() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (500, 4)).astype(np.float32)
    x[:, 3] = 0.0  # a unit that is silent on the training images
    scale = FeatureScale(4)
    scale.fit(torch.from_numpy(x))
    floor = 0.1 * x.std(axis=0).mean()
    expected = np.clip((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), floor), -5, 5)
    assert scale(torch.from_numpy(x)).numpy() == pytest.approx(expected, abs=1e-4)
    assert float(scale(torch.full((1, 4), 1e6)).max()) == 5.0
    assert abs(float(scale(torch.full((1, 4), 0.1 * float(floor)))[0, 3])) < 0.2, "faint activity stays faint"


def test_classes_are_learned_and_features_are_standardised() -> None:
    net, report = class_fit(None)
    assert report["val_score"] == 0.0
    features = FrozenExtractor(net, "fp32")
    train_NF, raw_NF = features(patches(64, 0).images), raw_features(net, patches(64, 0).images, "fp32")
    alive_F = raw_NF.std(dim=0) > 0.2 * raw_NF.std(dim=0).mean()
    assert train_NF[:, alive_F].mean(dim=0).abs().max() < 0.15
    assert float(train_NF.abs().max()) <= 5 and not train_NF.requires_grad
    _, predicted = features.judge(patches(40, 2).images, class_task(2))
    assert torch.equal(predicted, patches(40, 2).labels)


def test_the_sparse_auto_encoder_reads_a_scalar_and_rebuilds_the_image() -> None:
    seed_all(1, "net")
    train, val, task = bars(200, 0), bars(60, 1), scalar_task()
    net = FeatureNet(1, 16, 8, 64, 1, decode=True)
    cfg = ratio_config(feature_steps=200, reconstruct_weight=1.0, l1_weight=1e-3)
    report = train_features(net, Reals(train, val), task, cfg, plain, Loop(0))
    spread = float(to_signed(val.images).var())
    assert report["val_score"] < 0.6 and report["val_reconstruct_mse"] < 0.5 * spread
    _, predicted = FrozenExtractor(net, "fp32").judge(val.images, task)
    assert float((predicted - val.labels).abs().mean()) == pytest.approx(report["val_score"], rel=1e-4)
    assert predicted.dtype == torch.float32 and bool((predicted != predicted.round()).any())


def test_features_do_not_depend_on_how_the_images_are_split() -> None:
    net, _ = class_fit(None)
    images = patches(300, 5).images
    features = FrozenExtractor(net, "fp32")
    assert torch.allclose(features(images)[250:], features(images[250:]), atol=1e-4)
    net.train()
    features(images[:4])
    assert net.training, "the mode is put back"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inference_leaves_the_decoder_out_and_gives_the_same_bits(precision: str) -> None:
    net, task, images = FeatureNet(1, 16, 8, 32, 2, decode=True), class_task(2), patches(300, 5).images
    net.scale.fit(torch.rand(50, 32))
    net.eval()
    with torch.no_grad(), autocast(precision):
        whole = [net(signed_input(chunk)) for chunk in images.split(CHUNK)]
    assert all(recon is not None for _, _, recon in whole)
    raw_NF, out_NO = (torch.cat([part[i] for part in whole]) for i in (0, 1))

    def refuse(*args: object) -> None:
        raise AssertionError("the decoder ran")

    assert net.decoder is not None and net.from_features is not None
    hooks = [part.register_forward_pre_hook(refuse) for part in (net.decoder, net.from_features)]
    frozen = FrozenExtractor(net, precision)
    features_NF, label_N = frozen.judge(images, task)
    assert torch.equal(raw_features(net, images, precision), raw_NF)
    assert torch.equal(features_NF, net.scale(raw_NF)) and torch.equal(frozen(images), features_NF)
    assert torch.equal(label_N, task.predict(out_NO))
    with pytest.raises(AssertionError, match="the decoder ran"):
        reconstruction_error(net, images, precision)
    for hook in hooks:
        hook.remove()
    assert reconstruction_error(net, images, precision) > 0


def test_another_device_gets_a_copy_of_the_net_and_the_images() -> None:
    net, images = FeatureNet(1, 16, 8, 32, 2, decode=False).requires_grad_(False), patches(8, 0).images
    frozen = FrozenExtractor(net, "fp32", Plan(device="meta"))
    assert all(value.is_meta for value in frozen.net.state_dict().values())
    assert not any(value.is_meta for value in net.state_dict().values()), "what is saved stays where it was"
    asked: list[str] = []
    frozen.net.register_forward_pre_hook(lambda net, args: asked.append(args[0].device.type))
    with pytest.raises(RuntimeError):  # it computes nothing
        frozen(images)
    assert asked == ["meta"] and FrozenExtractor(net, "fp32").net is net


def test_the_best_weights_on_validation_are_kept() -> None:
    scores: list[float] = []
    seed_all(0, "net")
    net = FeatureNet(1, 16, 8, 64, 1, decode=False)
    train, val = bars(40, 0), bars(40, 1)
    report = train_features(
        net,
        Reals(train, val),
        scalar_task(),
        ratio_config(feature_learning_rate=0.02),
        plain,
        Loop(1, log=lambda step, values, total: scores.append(values["val"])),
    )
    assert len(scores) == 20 and report["val_score"] == min(scores)
    assert report["best_step"] == 3 * (1 + scores.index(min(scores)))


def test_a_killed_and_resumed_fit_is_bitwise_the_uninterrupted_one() -> None:
    whole, checkpoint = MemoryCheckpoint(), MemoryCheckpoint(kill_at=50)
    net_a, report_a = class_fit(whole)
    with pytest.raises(Interrupted):
        class_fit(checkpoint)
    net_b, report_b = class_fit(checkpoint)
    assert report_a == report_b
    # The last weights too, not only the best ones: those may be older than the kill.
    last_a, last_b = whole.load(), checkpoint.load()
    assert last_a and last_b and last_a["step"] == last_b["step"] == 100
    for x, y in zip(last_a["net"].values(), last_b["net"].values(), strict=True):
        assert torch.equal(x, y)
    assert all(torch.equal(a, b) for a, b in zip(net_a.state_dict().values(), net_b.state_dict().values(), strict=True))


def test_a_loss_that_is_not_finite_names_the_cure() -> None:
    net, cfg = FeatureNet(1, 16, 8, 32, 2, decode=False), ratio_config(label_weight=float("inf"))
    with pytest.raises(ValueError, match=r"ratio\.feature_learning_rate"):
        train_features(net, Reals(patches(16, 0), patches(16, 1)), class_task(2), cfg, plain, Loop(0))


def test_the_extractor_is_trained_by_the_optimiser_that_is_named() -> None:
    """SGD by hand: v := 0.9 v + g + decay w, w := w - rate v, a tenth of the rate from a milestone on."""
    net = FeatureNet(1, 16, 8, 32, 2, decode=False)
    cfg = ratio_config(feature_optimizer="sgd", feature_weight_decay=0.1, feature_learning_rate=0.5)
    optimizer, weight = make_optimizer(net, cfg), net.head.bias
    assert isinstance(weight, torch.nn.Parameter)
    by_hand, speed = weight.detach().clone(), torch.zeros(2)
    for _ in range(3):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        speed = 0.9 * speed + 1 + 0.1 * by_hand
        by_hand = by_hand - 0.5 * speed
    torch.testing.assert_close(weight.detach(), by_hand)
    adam = make_optimizer(net, ratio_config(feature_beta1=0.5))
    assert isinstance(adam, torch.optim.Adam) and adam.defaults["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("kill_at", [None, 5])
def test_a_published_fit_learns_and_resumes(kill_at: int | None) -> None:
    def fit(checkpoint: MemoryCheckpoint | None) -> AutoEncoder:
        seed_all(0, "net")
        net = AutoEncoder(1, 16, 8, 32, 1)
        cfg = ratio_config(
            feature_steps=40,
            reconstruct_weight=1.0,
            l1_weight=1e-3,
            scalar_loss="squared",
            feature_optimizer="sgd",
            feature_learning_rate=0.01,
            feature_weight_decay=1e-4,
            feature_schedule="multistep",
            feature_milestones=(0.25, 0.5, 0.75),
        )
        loop = Loop(4, checkpoint=checkpoint, save_every=10)
        train_features(net, Reals(bars(64, 0), bars(40, 1)), scalar_task(), cfg, plain, loop)
        return net

    whole = fit(None)
    if kill_at is not None:
        checkpoint = MemoryCheckpoint(kill_at)
        with pytest.raises(Interrupted):
            fit(checkpoint)
        for name, value in fit(checkpoint).state_dict().items():
            assert torch.equal(value, whole.state_dict()[name]), name


def test_the_extractor_sees_distinct_labels_equally_often() -> None:
    """One image in 41 is bright; by distinct labels every other image of a batch is."""
    label_N = torch.cat([torch.full((40,), 2.0), torch.tensor([8.0])])
    images = torch.full((41, 1, 16, 16), 20, dtype=torch.uint8)
    images[40] = 250
    train = Split(images, label_N)
    for targets, share in (("marginal", 1 / 41), ("distinct", 0.5)):
        seen: list[Tensor] = []

        def spy(unit_BCHW: Tensor, gen: torch.Generator, seen: list[Tensor] = seen) -> Tensor:
            seen.append(unit_BCHW[:, 0, 0, 0])
            return unit_BCHW

        cfg = ratio_config(feature_steps=40, targets=targets)
        net = FeatureNet(1, 16, 8, 32, 1, decode=False)
        train_features(net, Reals(train, train), scalar_task(), cfg, spy, Loop(0))
        assert float((torch.cat(seen) > 0.5).double().mean()) == pytest.approx(share, abs=0.06)
