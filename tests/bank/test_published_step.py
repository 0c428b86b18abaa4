"""The pool of fakes as a shortcut: with one batch drawn anew each step it is the published procedure, number for number."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.fit.loop import Loop
from cgankd.nets.gans.label_embed import ClassEmbed, ScalarEmbed
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, train_ratio
from cgankd.ratio.features import Reals
from cgankd.ratio.partners import FakeSource
from cgankd.rng import generator
from cgankd.types import Images, Split
from tests.bank.toys import class_task, ratio_config, scalar_task
from tests.ratio.test_density_ratio import draw, draw_scalar, grey, identity_features, never, reals

STEPS, BATCH, SEED = 12, 32, 5


def published(mlp: RatioMLP, embed: ClassEmbed, penalty: float) -> list[float]:
    """The cDRE step of arXiv 2103.11166 written out: a batch of reals, a fake for each label, features of both, one loss.

    Only the order of the random numbers is taken from the code under test.
    """
    train = reals(256, 1)
    cfg = ratio_config()
    optimizer = torch.optim.Adam(
        [*mlp.parameters(), *embed.parameters()],
        cfg.learning_rate,
        (cfg.beta1, cfg.beta2),
        weight_decay=cfg.weight_decay,
    )
    losses = []
    for step in range(STEPS):
        gen = generator(SEED, "ratio pool", step)
        row_B = torch.randperm(len(train), generator=gen)[:BATCH]
        fake_BCHW = draw(train.labels[row_B], gen)
        order_B = torch.randperm(BATCH, generator=generator(SEED, "ratio batch", step))
        row_B, fake_BCHW = row_B[order_B], fake_BCHW[order_B]
        h_BE = embed(train.labels[row_B])
        real_B = mlp(h_BE, identity_features(train.images[row_B]))
        fake_B = mlp(h_BE, identity_features(fake_BCHW))
        sp = torch.sigmoid(fake_B) * fake_B - F.softplus(fake_B)
        loss = sp.mean() - torch.sigmoid(real_B).mean() + penalty * (fake_B.mean() - 1) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


class Counted:
    """Features of images, counting how many images of the training split (by number) were asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        self.sizes.append(len(images_BCHW))
        return identity_features(images_BCHW)


def test_a_pool_of_one_batch_refreshed_each_step_is_the_published_procedure() -> None:
    torch.manual_seed(0)
    mlp, embed = RatioMLP(8, 1, (32, 16), dropout=0.0), ClassEmbed(2, 8)
    plain_mlp, plain_embed = copy.deepcopy(mlp), copy.deepcopy(embed)
    cfg = ratio_config(
        num_steps=STEPS,
        batch_size=BATCH,
        pool_size=BATCH,
        pool_refresh_steps=1,
        precision="fp32",
        eval_every_steps=1000,
    )
    train, task, losses = reals(256, 1), class_task(2), []
    features = Counted()
    source = FakeSource(draw, features, never, task.vicinity(train.labels), math.inf, cfg.max_redraws)
    loop = Loop(SEED, log=lambda step, values, total: losses.append(values["loss"]))
    train_ratio(RatioNets(mlp, embed), source, Reals(train, reals(64, 2)), task, cfg, loop)
    expected = published(plain_mlp, plain_embed, cfg.ratio_penalty)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    # Adam blows up the rounding of small gradients; the weights have moved by up to 0.012.
    # The loss on validation reals is taken once, at the end, so the weights kept are those of the last step.
    for name, value in plain_mlp.state_dict().items():
        if name != "scale":
            torch.testing.assert_close(mlp.state_dict()[name], value, rtol=0.0, atol=1e-4)
    # The features of the 256 reals are taken once, those of 32 fakes at each step.
    assert features.sizes.count(len(train)) == 1 and features.sizes.count(BATCH) == STEPS


ZETA, REDRAWS = 0.4, 2


def scalar_reals(num: int) -> Split:
    """Images that are their own label in 0..10, as those of the scalar tests."""
    label_N = 10 * torch.rand(num, generator=torch.Generator().manual_seed(num))
    return Split((label_N * 10).round().to(torch.uint8).reshape(-1, 1, 1, 1), label_N)


def scalar_features(images_BCHW: Images) -> Tensor:
    return grey(images_BCHW) / 50 - 1


def published_scalar(mlp: RatioMLP, embed: ScalarEmbed, penalty: float) -> tuple[list[float], list[int]]:
    """The step of a scalar-conditional GAN: each fake asked for within +-zeta of its real's label, image by image.

    A fake whose label is read as more than zeta away is drawn again, and after REDRAWS rounds dropped with its partner.
    Returns losses and batch sizes.
    """
    train, cfg = scalar_reals(96), ratio_config()
    optimizer = torch.optim.Adam(
        mlp.parameters(), cfg.learning_rate, (cfg.beta1, cfg.beta2), weight_decay=cfg.weight_decay
    )
    losses, sizes = [], []
    for step in range(STEPS):
        gen = generator(SEED, "ratio pool", step)
        row_B = torch.randperm(len(train), generator=gen)[:BATCH].tolist()
        fakes: dict[int, Tensor] = {}
        todo = row_B
        for _ in range(1 + REDRAWS):
            label_B = train.labels[todo]
            low_B, high_B = (label_B - ZETA), (label_B + ZETA)
            asked_B = (low_B + (high_B - low_B) * torch.rand(len(todo), generator=gen)).clamp(0.0, 10.0)
            for row, image in zip(todo, draw_scalar(asked_B, gen), strict=True):
                if abs(float(image) / 10 - float(train.labels[row])) <= ZETA:
                    fakes[row] = image
            todo = [row for row in todo if row not in fakes]
            if not todo:
                break
        kept = [row for row in row_B if row in fakes]
        kept = [kept[i] for i in torch.randperm(len(kept), generator=generator(SEED, "ratio batch", step)).tolist()]
        h_BE = embed(train.labels[kept]).detach()  # of the real's label, for the fake too
        real_B = mlp(h_BE, scalar_features(train.images[kept]))
        fake_B = mlp(h_BE, scalar_features(torch.stack([fakes[row] for row in kept])))
        sp = torch.sigmoid(fake_B) * fake_B - F.softplus(fake_B)
        loss = sp.mean() - torch.sigmoid(real_B).mean() + penalty * (fake_B.mean() - 1) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        sizes.append(len(kept))
    return losses, sizes


def test_with_scalar_labels_too() -> None:
    torch.manual_seed(1)
    mlp, embed = RatioMLP(8, 1, (32, 16), dropout=0.0), ScalarEmbed(8, 0.0, 10.0)
    plain_mlp, plain_embed = copy.deepcopy(mlp), copy.deepcopy(embed)
    cfg = ratio_config(
        num_steps=STEPS, batch_size=BATCH, pool_size=BATCH, pool_refresh_steps=1, precision="fp32",
        eval_every_steps=1000,
    )  # fmt: skip
    train, task, losses = scalar_reals(96), scalar_task(), []
    source = FakeSource(
        draw_scalar, scalar_features, lambda images: (scalar_features(images), grey(images)[:, 0] / 10),
        task.vicinity(train.labels), ZETA, REDRAWS,
    )  # fmt: skip
    loop = Loop(SEED, log=lambda step, values, total: losses.append(values["loss"]))
    train_ratio(RatioNets(mlp, embed.requires_grad_(False)), source, Reals(train, scalar_reals(40)), task, cfg, loop)
    expected, sizes = published_scalar(plain_mlp, plain_embed, cfg.ratio_penalty)
    assert min(sizes) > 0 and max(sizes) < BATCH, "some fakes fail every round, and leave with their partners"
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    for name, value in plain_mlp.state_dict().items():
        if name != "scale":
            torch.testing.assert_close(mlp.state_dict()[name], value, rtol=0.0, atol=1e-4)
