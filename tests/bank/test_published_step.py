"""The pool of fakes as a shortcut: with one batch drawn anew each step it is the published procedure, number for number."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.bank.m1_ratio import train_ratio
from cgankd.nets.label_embed import ClassEmbed
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.rng import generator
from tests.bank.test_m1_ratio import draw, identity_features, never, reals
from tests.bank.toys import class_task, ratio_config

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
    train_ratio(
        mlp, embed, features, train, reals(64, 2), task, task.vicinity(train.labels), draw, never, cfg, math.inf,
        seed=SEED, log=lambda step, values, total: losses.append(values["loss"]),
    )  # fmt: skip
    expected = published(plain_mlp, plain_embed, cfg.ratio_penalty)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    # Adam blows up the rounding of small gradients; the weights have moved by up to 0.012.
    # The loss on validation reals is taken once, at the end, so the weights kept are those of the last step.
    for name, value in plain_mlp.state_dict().items():
        if name != "scale":
            torch.testing.assert_close(mlp.state_dict()[name], value, rtol=0.0, atol=1e-4)
    # The features of the 256 reals are taken once, those of 32 fakes at each step.
    assert features.sizes.count(len(train)) == 1 and features.sizes.count(BATCH) == STEPS
