"""Building a bank: kept images a second, with BigGAN at 32 px, ResNet-34 features and a DenseNet-121 as the filter.

The ratio of an untrained network accepts nothing or everything, so that the networks are run for their cost and the ratio
is 3.6 u^2.6 with u read off the image: mean 1, accepted at about one in 3.6, on both sides alike. Plain: each call for a
class draws its burn-in anew and drops the surplus of its last batch, and a call is repeated until the filter has left
enough; so it draws some 12 images for each that is kept, 40 % of them burn-in. Fast: one burn-in a class, then blocks
until the quota is full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import ratio_step
from benchmarks.subjects import class_data, gan_config, predictor, ratio_config
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, repeated
from cgankd.bank import build as bank
from cgankd.config import BankConfig
from cgankd.data.pixels import to_unit
from cgankd.fit.device import forward_flop
from cgankd.fit.predictor import make_predict
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.rng import generator, seed_all
from cgankd.task import ClassTask
from cgankd.types import Draw, Images, PredictFn, RatioFn

BLOCK, NUM_LABELS = 128, 1
"""One class: the work is the same for each."""


def config(quick: bool) -> BankConfig:
    """rho 0.9; quota and burn-in such that the plain way draws as many images for a kept one as the published one does."""
    quota = 4 if quick else 104
    return BankConfig(
        num_fakes=NUM_LABELS * quota, subsample=True, filter=True, replace=False, rho=0.9, filter_scope="label", label_bin=None,
        num_conditions=None, bound_quantile=1.0, burn_in=20 if quick else 2 * BLOCK, max_draws_factor=200.0, batch_size=BLOCK,
        refuse_worthless=False, block_size=16 if quick else BLOCK,
    )  # fmt: skip


def fixed_ratio(images_BCHW: Tensor) -> Tensor:
    """3.6 u^2.6 with u in (0, 1) read off the pixel sum of each image, [B]; mean 1 and 3.6 at most."""
    u_B = (images_BCHW.flatten(1).long().sum(dim=1).double() * 0.6180339887498949).remainder(1.0)
    return (3.6 * u_B**2.6).float()


def parts(side: Side, quick: bool) -> tuple[Draw, RatioFn, PredictFn, ClassTask]:
    """Generator, ratio and filter of a side."""
    draw, features, embed = ratio_step.parts(side, quick)
    _, task = class_data(32, 16)
    seed_all("mlp")
    cfg = ratio_config(quick=quick)
    width = 64 if quick else ratio_step.NUM_FEATURES
    mlp = RatioMLP(gan_config("biggan", quick=quick).embed_dim, width, cfg.hidden, 0.0).eval()
    net = predictor("densenet121", 32, task.num_outputs, quick=quick).eval().requires_grad_(False)

    @torch.no_grad()
    def ratio(images_BCHW: Images, label_B: Tensor) -> Tensor:
        cost_B = mlp(embed(label_B), features(images_BCHW))
        return fixed_ratio(images_BCHW[slice(None)]) + 0 * cost_B

    teacher = (
        plain_predict(net)
        if side == "plain"
        else make_predict(net, "auto", BLOCK, plan=fast_plan(quick), expected=10**6)
    )
    return draw, ratio, teacher, task


def plain_predict(net: nn.Module) -> PredictFn:
    """Outputs in float32, NCHW."""

    @torch.no_grad()
    def predict(images_BCHW: Images) -> Tensor:
        out: Tensor = net(to_unit(images_BCHW[slice(None)]))
        return out

    return predict


def plain_call(draw: Draw, ratio: RatioFn, label: int, num: int, cfg: BankConfig, gen: torch.Generator) -> Tensor:
    """Subsampled fakes of a class [num]: a burn-in for the bound, then batches; the surplus is dropped."""

    def batch(count: int) -> tuple[Tensor, Tensor]:
        label_B = torch.full((count,), label)
        images_BCHW = draw(label_B, gen)
        return images_BCHW, ratio(images_BCHW, label_B)

    bound = float(batch(cfg.burn_in)[1].max())
    kept: list[Tensor] = []
    while sum(map(len, kept)) < num:
        images_BCHW, r_B = batch(cfg.block_size)
        kept.append(images_BCHW[torch.rand(len(r_B), generator=gen) <= r_B / bound])
    return torch.cat(kept)[:num]


@dataclass
class Counted:
    """Images that the networks have seen since the count was last set to zero."""

    drawn: int = 0
    judged: int = 0

    def wrap(self, draw: Draw, teacher: PredictFn) -> tuple[Draw, PredictFn]:
        """Both functions, counting."""

        def counted_draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
            self.drawn += len(label_B)
            return draw(label_B, gen)

        def counted_teacher(images_BCHW: Images) -> Tensor:
            self.judged += len(images_BCHW)
            return teacher(images_BCHW)

        return counted_draw, counted_teacher

    def flop(self, quick: bool) -> float:
        """Floating-point operations for the images counted: each drawn one passes generator, features and ratio."""
        one = ratio_step.flop(quick)
        judge = predictor("densenet121", 32, 10, quick=quick)
        judged = forward_flop(judge, torch.zeros(2, 3, 32, 32)) / 2
        return self.drawn * (one.draw + one.features + one.mlp) + self.judged * judged


def plain_bank(quick: bool, count: Counted) -> Callable[[], int]:
    """The whole bank in the plain way; returns the number kept."""
    draw, ratio, teacher, task = parts("plain", quick)
    draw, teacher = count.wrap(draw, teacher)
    cfg, gen = config(quick), generator("plain bank")

    def make() -> int:
        kept = count.drawn = count.judged = 0
        for label in range(NUM_LABELS):
            have, quota = 0, cfg.num_fakes // NUM_LABELS
            while have < quota:
                images_BCHW = plain_call(draw, ratio, label, quota, cfg, gen)
                error_B = task.error(teacher(images_BCHW), torch.full((len(images_BCHW),), label))
                have += int((error_B <= error_B.quantile(cfg.rho)).sum())
            kept += min(have, quota)
        return kept

    return make


def fast_bank(quick: bool, count: Counted) -> Callable[[], int]:
    """The same bank by the functions of the bank stage."""
    draw, ratio, teacher, task = parts("fast", quick)
    draw, teacher = count.wrap(draw, teacher)
    cfg = config(quick)
    score_fn = partial(bank.score, draw, ratio, teacher, task)
    conditions = bank.arrange(task, torch.arange(NUM_LABELS), cfg, seed=0)

    def make() -> int:
        count.drawn = count.judged = 0
        limits = bank.burn_in(score_fn, conditions, cfg, seed=0)
        blocks = list(bank.grow_pool(score_fn, conditions, limits, cfg, ["filter"], seed=0))
        columns = [
            torch.cat(column)
            for column in zip(*((s.asked, s.ratio, s.teacher_error, s.uniform) for s in blocks), strict=True)
        ]
        rows = bank.select(
            "filter", bank.Columns(task.filter_groups(columns[0]), *columns[1:]), limits, conditions.quota_G
        )
        return len(rows)

    return make


def build(side: Side, quick: bool) -> Work:
    count = Counted()
    make = (plain_bank if side == "plain" else fast_bank)(quick, count)
    cfg = config(quick)
    note = (
        f"a bank of {cfg.num_fakes} fakes of {NUM_LABELS} class, burn-in of {cfg.burn_in}, blocks of {cfg.block_size}"
    )
    precision = "fp32" if side == "plain" else "auto"
    return Work(repeated(make), cfg.num_fakes, precision, partial(count.flop, quick), note=note)


def agree(quick: bool) -> list[Agreement]:
    """Both ways keep the quota; teacher errors of equal images differ by the arithmetic alone."""
    images, label_B = class_data(32, BLOCK)[0].images, torch.arange(BLOCK) % 10
    (_, _, plain_teacher, task), (_, _, fast_teacher, _) = parts("plain", quick), parts("fast", quick)
    found, expected = (task.error(teacher(images), label_B) for teacher in (fast_teacher, plain_teacher))
    error = float((found - expected).abs().max())
    short = float(config(quick).num_fakes - fast_bank(quick, Counted())())
    return [Agreement("teacher error, largest difference in nats", error, 0.1), Agreement("fakes missing", short, 0.0)]


CASE = Case(
    "bank_build",
    "Bank, kept images a second (BigGAN 32 px, ResNet-34 features, DenseNet-121 filter, rho 0.9)",
    30.0,
    build,
    agree,
    warmup={"plain": 0, "fast": 1},
    repeats={"plain": 1, "fast": 2},
)

if __name__ == "__main__":
    main(CASE)
