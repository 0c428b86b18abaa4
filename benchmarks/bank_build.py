"""Building a bank: kept images a second, with BigGAN at 32 px, ResNet-34 features and a DenseNet-121 as the filter.

The ratio of an untrained network accepts nothing or everything, so that the networks are run for their cost and the ratio
is 3.6 u^2.6 with u read off the image: mean 1, accepted at about one in 3.6, on both sides alike. Plain: each call for a
class draws its burn-in anew and drops the surplus of its last batch, and a call is repeated until the filter has left
enough, which takes two. Fast: one burn-in a class, then blocks until the quota is full.

Burn-ins are counted as in the preset cifar10-50k, 1,000 draws for a quota of 10,000, on both sides: their share of the quota
of the row is added to each repetition. So the plain side draws some 8 images for a kept one; the authors' code 9 to 15, as
its burn-ins are larger against its quotas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import ratio_step
from benchmarks.peak import work_flop
from benchmarks.place import place
from benchmarks.subjects import class_data, predictor
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, repeated
from cgankd.bank import build as bank
from cgankd.config import BankConfig
from cgankd.data.pixels import to_unit
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import ClassTask
from cgankd.rng import generator
from cgankd.types import Draw, Images, PredictFn, RatioFn

BLOCK, NUM_LABELS = 128, 1
"""One class: the work is the same for each."""
BURN_INS = 1_000 / 10_000
"""Draws of a burn-in for an image of the quota, in cifar10-50k."""
CALLS = 2
"""Calls of the plain way for a class, each with a burn-in: the first leaves rho of the quota."""


def config(side: Side, quick: bool) -> BankConfig:
    """rho 0.9; the plain side makes a smaller bank, in blocks so small that the surplus of the last one stays small."""
    quota, block = (4, 16) if quick else (52, BLOCK // 2) if side == "plain" else (416, BLOCK)
    return BankConfig(
        num_fakes=NUM_LABELS * quota, subsample=True, filter=True, replace=False, rho=0.9, filter_scope="label", label_bin=None,
        num_conditions=None, bound_quantile=1.0, burn_in=20 if quick else 2 * BLOCK, max_draws_factor=200.0, batch_size=BLOCK,
        refuse_worthless=False, block_size=block,
    )  # fmt: skip


LARGEST = 3.6
"""The largest ratio, which a burn-in finds."""


def fixed_ratio(images_BCHW: Tensor) -> Tensor:
    """3.6 u^2.6 with u in (0, 1) read off the pixel sum of each image, [B]; mean 1 and 3.6 at most."""
    u_B = (images_BCHW.flatten(1).long().sum(dim=1).double() * 0.6180339887498949).remainder(1.0)
    return (LARGEST * u_B**2.6).float()


def parts(side: Side, quick: bool) -> tuple[Draw, RatioFn, PredictFn, ClassTask]:
    """Generator, ratio and filter of a side."""
    draw, features, embed = ratio_step.parts(side, quick)
    _, task = class_data(32, 16)
    mlp = ratio_step.ratio_net(quick).eval().to(place())
    embed.to(place())
    net = predictor("densenet121", 32, task.num_outputs, quick=quick).eval().requires_grad_(False).to(place())

    @torch.no_grad()
    def ratio(images_BCHW: Images, label_B: Tensor) -> Tensor:
        cost_B = mlp(embed(label_B.to(place())), features(images_BCHW).to(place())).cpu()
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
        out: Tensor = net(to_unit(images_BCHW[slice(None)].to(place()))).cpu()
        return out

    return predict


def plain_call(draw: Draw, ratio: RatioFn, label: int, num: int, block: int, gen: torch.Generator) -> Tensor:
    """Subsampled fakes of a class [num] by batches; the surplus is dropped. Its burn-in is counted in `build`."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < num:
        label_B = torch.full((block,), label)
        images_BCHW = draw(label_B, gen)
        r_B = ratio(images_BCHW, label_B)
        kept.append(images_BCHW[torch.rand(len(r_B), generator=gen) <= r_B / LARGEST])
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

    def flop(self, quick: bool, burn_ins: float, judged_burn_ins: float) -> float:
        """Floating-point operations for the images counted and the burn-ins added to them."""
        one = ratio_step.flop(quick)
        judge = predictor("densenet121", 32, 10, quick=quick)
        judged = work_flop(judge, torch.zeros(2, 3, 32, 32)) / 2
        drawn = (self.drawn + burn_ins) * (one.draw + one.features + one.mlp)
        return drawn + (self.judged + judged_burn_ins) * judged


Bank = Callable[[], int]
"""Make a bank; returns the number kept."""


def plain_bank(quick: bool, count: Counted) -> tuple[Bank, float]:
    """The bank in the plain way, and the seconds of a draw in its burn-in."""
    draw, ratio, teacher, task = parts("plain", quick)
    cfg, gen = config("plain", quick), generator("plain bank")
    label_B = torch.zeros(cfg.block_size, dtype=torch.long)
    start = time.perf_counter()
    ratio(draw(label_B, gen), label_B)
    seconds = (time.perf_counter() - start) / len(label_B)
    draw, teacher = count.wrap(draw, teacher)

    def make() -> int:
        kept = count.drawn = count.judged = 0
        for label in range(NUM_LABELS):
            have, quota = 0, cfg.num_fakes // NUM_LABELS
            while have < quota:
                images_BCHW = plain_call(draw, ratio, label, quota, cfg.block_size, gen)
                error_B = task.error(teacher(images_BCHW), torch.full((len(images_BCHW),), label))
                have += int((error_B <= error_B.quantile(cfg.rho)).sum())
            kept += min(have, quota)
        return kept

    return make, seconds


def fast_bank(quick: bool, count: Counted) -> tuple[Bank, float]:
    """The bank by the functions of the bank stage, and the seconds of a draw in its burn-in, which is kept."""
    draw, ratio, teacher, task = parts("fast", quick)
    draw, teacher = count.wrap(draw, teacher)
    cfg = config("fast", quick)
    scorer = bank.Scorer(draw, ratio, teacher, task)
    conditions = bank.arrange(task, torch.arange(NUM_LABELS), cfg, seed=0)
    source = bank.Source(scorer, conditions, cfg, 0)
    scorer(torch.zeros(cfg.batch_size, dtype=torch.long), generator("compile"), 0)
    start = time.perf_counter()
    limits = bank.burn_in(source)
    seconds = (time.perf_counter() - start) / cfg.burn_in / NUM_LABELS

    def make() -> int:
        count.drawn = count.judged = 0
        blocks = list(bank.grow_pool(source, limits, ["filter"]))
        columns = [
            torch.cat(column)
            for column in zip(*((s.asked, s.ratio, s.teacher_error, s.uniform) for s in blocks), strict=True)
        ]
        rows = bank.select(
            "filter", bank.Columns(task.filter_groups(columns[0]), *columns[1:]), limits, conditions.quota_G
        )
        return len(rows)

    return make, seconds


def build(side: Side, quick: bool) -> Work:
    count, cfg = Counted(), config(side, quick)
    make, draw_s = (plain_bank if side == "plain" else fast_bank)(quick, count)
    calls, precision = (CALLS, "fp32") if side == "plain" else (1, "auto")
    burn_ins = calls * BURN_INS * cfg.num_fakes
    judged = burn_ins if side == "fast" else 0.0

    def note() -> str:
        drawn = (count.drawn + burn_ins) / cfg.num_fakes
        return f"{side}: {cfg.num_fakes} kept, {drawn:.3g} drawn for a kept one, {calls * BURN_INS:.1f} of them burn-in"

    return Work(
        repeated(make), cfg.num_fakes, precision, lambda: count.flop(quick, burn_ins, judged), burn_ins * draw_s, note,
    )  # fmt: skip


def agree(quick: bool) -> list[Agreement]:
    """Both ways keep the quota; teacher errors of equal images differ by the arithmetic alone."""
    images, label_B = class_data(32, BLOCK)[0].images, torch.arange(BLOCK) % 10
    (_, _, plain_teacher, task), (_, _, fast_teacher, _) = parts("plain", quick), parts("fast", quick)
    found, expected = (task.error(teacher(images), label_B) for teacher in (fast_teacher, plain_teacher))
    error = float((found - expected).abs().max())
    short = float(config("fast", quick).num_fakes - fast_bank(quick, Counted())[0]())
    return [Agreement("teacher error, largest difference in nats", error, 0.1), Agreement("fakes missing", short, 0.0)]


CASE = Case(
    "bank_build",
    "Bank, kept images a second (BigGAN 32 px, ResNet-34 features, DenseNet-121 filter, rho 0.9)",
    30.0,
    build,
    agree,
    warmup={"plain": 0, "fast": 0},
    repeats={"plain": 3, "fast": 3},
)

if __name__ == "__main__":
    main(CASE)
