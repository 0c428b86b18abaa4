"""Trainings of fifty steps that tests run alone and on two ranks: each returns its logged numbers and its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cgankd.data.batches import Mixture
from cgankd.data.mix import Mixing
from cgankd.distill import make_distiller
from cgankd.distill.engine import Distillation, Negatives, Teacher
from cgankd.distill.methods import METHODS
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor
from cgankd.gan.embed import fit_label_embed
from cgankd.gan.train import train_cgan
from cgankd.nets.features import FeatureNet
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, train_ratio
from cgankd.ratio.features import Reals, train_features
from cgankd.rng import seed_all
from cgankd.types import Checkpoint
from tests.bank.toys import class_task, ratio_config
from tests.distill.toys import pair
from tests.fit.test_predictor import fit_config, toy
from tests.gan.toys import VICINITY, class_toy, gan_config, label_input, scalar_toy
from tests.pipelines.finished import made_data
from tests.ratio.test_density_ratio import class_source, reals
from tests.ratio.test_features import patches

Found = dict[str, Any]
STEPS = 50
RATES: dict[str, Any] = {"lr_g": 5e-5, "lr_d": 5e-5}
"""Of a GAN: at larger ones the order of sums alone moves a loss by more than 1e-4 within fifty steps."""


class Keeper:
    """What a training logs."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def __call__(self, step: int, values: Mapping[str, float], total: int) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(float(value))

    def found(self, *nets: nn.Module) -> Found:
        return {
            "values": self.values,
            "state": {f"{i}.{k}": v for i, n in enumerate(nets) for k, v in n.state_dict().items()},
        }


class Dropping(nn.Module):
    """A net with dropout before and after a batch norm of one dimension, and with rows that skip a block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6, affine=False)
        self.drop, self.flat, self.head = nn.Dropout(0.3), nn.BatchNorm1d(6 * 49), nn.Linear(6 * 49, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.drop(self.norm(self.conv(x_BCHW)))
        out = out * (torch.rand(len(out), 1, 1, 1) > 0.4)
        found: Tensor = self.head(self.drop(self.flat(out.flatten(1))))
        return found


def shifted(unit: Tensor, gen: torch.Generator) -> Tensor:
    return (unit + 0.1 * torch.rand(len(unit), 1, 1, 1, generator=gen)).clamp(0, 1)


def teacher(name: str = "convnet", mix: str = "none", checkpoint: Checkpoint | None = None) -> Found:
    data, keeper = toy(), Keeper()
    task = class_task(2)
    seed_all(3, "net")
    shape = NetShape(2, 1, 16)
    net = Dropping() if name == "dropping" else make_predictor(name, shape, width=4, mean=(0.5,), std=(0.25,))
    cfg = fit_config(num_steps=STEPS, batch_size=9, mix=mix)  # an odd batch: the ranks have five rows and four
    mixture = Mixture(data, None, real_share=None, batch_size=9, seed=3)
    mixing = None if mix == "none" else Mixing(cfg, "any", task.mixed_labels, 3)
    fit_predictor(
        net, Plain(task), Feed(mixture.batch, shifted, mixing), cfg, Loop(3, log=keeper, checkpoint=checkpoint)
    )
    return keeper.found(net)


def student(method: str, num_steps: int = STEPS) -> Found:
    both, keeper = pair(False), Keeper()
    distiller = make_distiller(method)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    split = made_data(False).train
    flips = {name: lambda unit, gen: unit.flip(3) for name in ("weak", "strong")}
    negatives = Negatives(split.labels) if distiller.needs.neg_index else None
    objective = Distillation(
        class_task(3),
        distiller,
        Teacher(both.teacher.net, "fp32"),
        flips,
        0,
        len(split),
        num_steps,
        negatives=negatives,
    )
    cfg = fit_config(num_steps=num_steps, batch_size=8)
    mixture = Mixture(split, None, real_share=None, batch_size=8, seed=5)
    fit_predictor(both.student.net, objective, Feed(mixture.batch, shifted), cfg, Loop(5, log=keeper))
    return keeper.found(both.student.net, distiller)


def every_loss() -> Found:
    """The first steps with each KD loss that several ranks share."""
    values = dict[str, list[float]]()
    for name in sorted(METHODS):
        if name != "reg_kd" and not METHODS[name].needs.input_grad:  # the one is for scalars, the other is refused
            found = student(name, 4)["values"]
            values |= {f"{name} {key}": numbers for key, numbers in found.items() if key == "loss"}
    return {"values": values, "state": {"none": torch.ones(1)}}


def gan(**changes: object) -> Found:
    train, task = class_toy()
    cfg, keeper = gan_config(num_steps=STEPS, **(RATES | changes)), Keeper()
    seed_all("embed")
    embed = task.label_embed(8)
    net, embed, _ = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(2, log=keeper))
    return keeper.found(net, embed)


def ccgan() -> Found:
    train, task = scalar_toy()
    small = replace(label_input(), image_steps=30, label_steps=30)
    cfg = gan_config(
        embed_dim=32, vicinity=VICINITY, label_input=small, num_steps=STEPS, aux_weight=1.0, lr_g=1e-5, lr_d=1e-5
    )
    keeper = Keeper()
    seed_all("embed")
    embed = task.label_embed(32)
    fit_label_embed(embed, task, train, cfg.label_input, Loop(0, log=keeper))
    net, embed, _ = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(2, log=keeper))
    return keeper.found(net, embed)


def features() -> Found:
    seed_all(0, "net")
    net, keeper = FeatureNet(1, 16, 8, 32, 2, decode=True), Keeper()
    cfg = ratio_config(feature_steps=STEPS, reconstruct_weight=0.5, l1_weight=1e-3)
    train_features(net, Reals(patches(64, 0), patches(40, 1)), class_task(2), cfg, shifted, Loop(4, log=keeper))
    return keeper.found(net)


def ratio() -> Found:
    train, val, keeper = reals(64, 0), reals(40, 1), Keeper()
    task, cfg = class_task(2), ratio_config(num_steps=STEPS, eval_every_steps=1, dropout=0.5, learning_rate=3e-4)
    seed_all(1, "ratio nets")
    nets = RatioNets(RatioMLP(4, 1, (32, 32), 0.5), task.label_embed(4))
    train_ratio(nets, class_source(train), Reals(train, val), task, cfg, Loop(1, log=keeper))
    return keeper.found(nets.mlp, nets.embed)


JOBS: dict[str, Callable[[], Found]] = {
    "teacher": teacher,
    "teacher, dropout and drop connect": lambda: teacher("dropping"),
    "teacher, mixup": lambda: teacher(mix="mixup"),
    "student, kd": lambda: student("kd"),
    "student, rkd (compares the images of a batch)": lambda: student("rkd"),
    "student, ofd (batch norms in the loss)": lambda: student("ofd"),
    "student, crd (memory, negatives)": lambda: student("crd"),
    "student, sskd (views and turns)": lambda: student("sskd"),
    "student, every loss": every_loss,
    "gan": gan,
    "gan, in pieces": lambda: gan(accumulate=2, d_steps=2, lr_g=2e-5, lr_d=2e-5),
    "ccgan": ccgan,
    "features": features,
    "ratio": ratio,
}


def on_rank(rank: int, size: int, folder: str) -> None:
    """Run all jobs as one of several ranks and keep what each found."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    for number, job in enumerate(JOBS.values()):
        torch.save(job(), Path(folder) / f"{number}-{rank}.pt")
    dist.destroy_process_group()
