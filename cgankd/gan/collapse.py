"""A GAN that collapses, seen while it is trained: fakes of a label all alike, the label ignored, a discriminator that has won.

What is seen is a rule of thumb, far from what sound trainings show: over PATIENCE looks at a stretch, a look each log step, and
not in the first quarter, in which every generator begins with one grey image. The looks draw nothing that the training draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig
from cgankd.data.pixels import to_signed
from cgankd.fit.device import autocast, device_of
from cgankd.fit.loop import Loop
from cgankd.fit.watch import NotFinite
from cgankd.gan.losses import label_miss
from cgankd.nets.gans.label_embed import embed_labels
from cgankd.rng import generator
from cgankd.types import Diverged, Split, Task, Vicinity

PATIENCE, WARM_UP = 10, 0.25
"""Looks in a row that make a collapse, and the share of the steps before the first look."""
LEAST_DIVERSITY, LEAST_OF_LABEL = 0.5, 0.1
"""Distance of fakes of one label over that of real images: mean over all labels (0.86 and more was seen in 28 sound
trainings), and of one label alone."""
LEAST_EFFECT = 0.02
"""Distance of fakes of one latent and other labels, over that of real images of one label."""
MOST_RIGHT = 0.97
"""Share of reals and of fakes that the discriminator tells right (0.84 of both at a stretch was seen in sound trainings)."""
AUX_KNOWS, AUX_LOST = 0.25, 0.8
"""The discriminator's second head misses the labels of reals by less, and of fakes by more, than these shares of the miss of
one answer for all."""
NUM_LABELS, NUM_LATENTS = 8, 3

KINDS = {
    "diversity": "fakes of one label are nearly alike; raise cgan.diversity_weight or lower cgan.lr_d",
    "label_diversity": "fakes of some labels are nearly alike; give more images of rare labels, or raise cgan.diversity_weight",
    "label": "the fakes do not follow the label; raise cgan.aux_weight (scalar labels) or cgan.embed_dim, or lower cgan.lr_g",
    "discriminator": "the discriminator tells all images right, so that the generator learns nothing; lower cgan.lr_d or"
    " cgan.d_steps, or augment more (cgan.diffaugment)",
}
"""Kinds of collapse, and what each means and asks for."""


class Collapsed(Diverged):
    """A GAN's training that `cgan.stop_collapsed` ended early."""


@dataclass(frozen=True)
class Probe:
    """Fixed labels [L], latents [K, Z] and the distance [L] of real images of each label; NaN where a label has no two."""

    label_L: Tensor
    z_KZ: Tensor
    real_L: Tensor

    @torch.no_grad()
    def look(self, net: nn.Module, embed: nn.Module, precision: str) -> dict[str, float]:
        """Distances of a generator's fakes over those of real images, in evaluation mode, which changes nothing in it.

        `diversity` is the mean over the labels, `label_diversity` that of the poorest label, `effect` that of the label.
        Raises NotFinite.
        """
        device = device_of(net)
        count, num = len(self.z_KZ), len(self.label_L)
        modes = [(module, module.training) for module in (*net.modules(), *embed.modules())]
        net.eval()
        embed.eval()
        z_BZ = self.z_KZ.repeat_interleave(num, dim=0).to(device)
        with autocast(precision, device):
            fake_BCHW = net(z_BZ, embed_labels(embed, self.label_L.repeat(count)))
        for module, training in modes:
            module.training = training
        fake_KLD = fake_BCHW.float().flatten(1).view(count, num, -1)
        gap_L = torch.stack([(fake_KLD[k] - fake_KLD[k - 1]).abs().mean(dim=1) for k in range(count)]).mean(dim=0).cpu()
        share_L = (gap_L / self.real_L.to(gap_L.dtype))[~self.real_L.isnan()]
        if not math.isfinite(float(gap_L.sum())):
            raise NotFinite("fakes of the averaged generator")
        found = dict[str, float]()
        if len(share_L):
            found = {"diversity": float(share_L.mean()), "label_diversity": float(share_L.min())}
            if num > 1:
                effect = (fake_KLD - fake_KLD.roll(1, dims=1)).abs().mean()
                found["effect"] = float(effect) / float(self.real_L[~self.real_L.isnan()].mean())
        return found


def make_probe(train: Split, vicinity: Vicinity, z_dim: int, seed: int, num_pairs: int = 64) -> Probe:
    """Labels spread evenly over the targets, with the distance of real images that the vicinity pairs with each."""
    target_T = torch.unique(vicinity.targets(32 * NUM_LABELS, generator(seed, "collapse", "labels")))
    label_L = target_T[torch.linspace(0, len(target_T) - 1, min(NUM_LABELS, len(target_T))).round().long()]
    gen, real = generator(seed, "collapse", "real"), list[float]()
    for label in label_L:
        first, second = (vicinity.pair(label.repeat(num_pairs), gen) for _ in range(2))
        weight_B = first.weight * second.weight * (first.index != second.index)
        one_BCHW, other_BCHW = (to_signed(train.images[pairing.index]) for pairing in (first, second))
        gap_B = (one_BCHW - other_BCHW).abs().mean(dim=(1, 2, 3))
        total = float(weight_B.sum())
        mean = float((weight_B * gap_B).sum()) / total if total > 0 else 0.0
        real.append(mean if mean > 0 else float("nan"))
    z_KZ = torch.randn(NUM_LATENTS, z_dim, generator=generator(seed, "collapse", "latents"))
    return Probe(label_L, z_KZ, torch.tensor(real))


def chance_miss(task: Task, label_N: Tensor) -> float:
    """What one answer for all misses normalised labels by, as the discriminator's second head is judged."""
    unit_N = task.targets(label_N).float()
    answer_NO = unit_N.mean().expand(len(unit_N), 1) if task.period is None else torch.zeros(len(unit_N), 2)
    return float(label_miss(answer_NO, unit_N, task.period))


class Collapse:
    """What was seen so far: looks in a row of each kind, and the steps of those that became a collapse.

    `chance` is the miss of one answer for all labels, where the discriminator reads labels.
    """

    def __init__(self, probe: Probe, cfg: CganConfig, chance: float | None = None) -> None:
        self.probe, self.cfg, self.num_steps, self.chance = probe, cfg, cfg.num_steps, chance
        self.rows = dict.fromkeys(KINDS, 0)
        self.since: dict[str, int] = {}
        self.passed: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on with."""
        return {"rows": dict(self.rows), "since": dict(self.since), "passed": dict(self.passed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.rows, self.since, self.passed = (dict(state[name]) for name in ("rows", "since", "passed"))

    def look(self, done: int, logged: Mapping[str, float], nets: tuple[nn.Module, nn.Module], loop: Loop) -> None:
        """Look at averaged generator and embedding after `done` steps, with what is logged; says what is new.

        Raises Collapsed where cgan.stop_collapsed ends the training by it, and NotFinite.
        """
        for kind in self.see(done, logged, self.probe.look(*nets, self.cfg.precision)):
            where = f"step {done} of {self.num_steps}"
            if self.cfg.stop_collapsed and done < self.num_steps:
                raise Collapsed(
                    f"cgan.stop_collapsed: the GAN has collapsed, seen at {where}, and nothing of it is saved: {KINDS[kind]};"
                    " or set cgan.stop_collapsed to false, and it is trained to its end"
                )
            loop.plan.say(f"the GAN seems to have collapsed, seen at {where}: {KINDS[kind]}")

    def see(self, done: int, logged: Mapping[str, float], seen: Mapping[str, float]) -> list[str]:
        """Take in the logged values and the look after `done` steps; the kinds that have just become a collapse."""
        if done <= WARM_UP * self.num_steps:
            return []
        new = []
        for kind, bad in self.signs(logged, seen).items():
            self.rows[kind] = self.rows[kind] + 1 if bad else 0
            if self.rows[kind] >= PATIENCE and (kind not in self.since or kind in self.passed):
                self.since.setdefault(kind, done)
                self.passed.pop(kind, None)
                new.append(kind)
            elif not bad and kind in self.since:
                self.passed.setdefault(kind, done)
        return new

    def signs(self, logged: Mapping[str, float], seen: Mapping[str, float]) -> dict[str, bool]:
        """Which kinds of collapse one look shows."""
        none = float("inf")
        ignored = seen.get("effect", none) < LEAST_EFFECT
        if self.chance is not None and "aux_fake" in logged:
            knows = logged["aux_real"] < AUX_KNOWS * self.chance
            ignored |= knows and logged["aux_fake"] > AUX_LOST * self.chance
        alike = min(logged.get("diversity_ratio", none), seen.get("diversity", none)) < LEAST_DIVERSITY
        return {
            "diversity": alike,
            "label_diversity": not alike and seen.get("label_diversity", none) < LEAST_OF_LABEL,
            "label": ignored,
            "discriminator": min(logged["right_real"], logged["right_fake"]) >= MOST_RIGHT,
        }

    def values(self) -> dict[str, float]:
        """For the metrics: `collapse.KIND`, the step it was seen at, and `collapse.KIND.passed`, where it was gone by the end."""
        found = {f"collapse.{kind}": float(step) for kind, step in self.since.items()}
        return found | {f"collapse.{kind}.passed": float(step) for kind, step in self.passed.items()}
