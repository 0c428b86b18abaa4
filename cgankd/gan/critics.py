"""The heads on fixed features, trained beside the plain discriminator with the same loss, and a diversity floor on the features.

Projected GANs, arXiv 2111.01007; why a floor there too: colour alone can fill one that is measured in pixels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig
from cgankd.data.pixels import to_signed
from cgankd.fit.device import autocast, channels_last
from cgankd.fit.ranks import sum_gradients
from cgankd.gan.augment import diff_augment
from cgankd.gan.losses import LOSSES, diversity_floor, mean_distance
from cgankd.gan.micro import backward, micro_batches
from cgankd.nets.gans.features import FeatureHeads, FixedFeatures, pooled
from cgankd.nets.gans.label_embed import embed_labels
from cgankd.rng import generator, seed_all
from cgankd.types import Split, Vicinity

CALIBRATION = 256
"""Training images, evenly spaced among all, over which the mixed maps are standardised."""


class Critics:
    """Heads with a label embedding and an optimiser of their own; `values` are what they last said, for the log."""

    def __init__(
        self, features: FixedFeatures, train: Split, vicinity: Vicinity, embed: nn.Module, cfg: CganConfig, seed: int
    ) -> None:
        self.cfg, self.device = cfg, next(features.buffers()).device.type
        self.features = features
        rows = torch.linspace(0, len(train) - 1, min(CALIBRATION, len(train))).round().long()
        features.calibrate(to_signed(train.images[rows]).to(self.device))
        seed_all(seed, "cgan", "feature heads")
        self.heads = channels_last(FeatureHeads(cfg.embed_dim, features.sides)).to(self.device)
        self.embed = copy.deepcopy(embed).to(self.device)
        self.learned = bool(embed.trained_with_gan)
        self.embed.requires_grad_(self.learned)
        weights = [*self.heads.parameters(), *(self.embed.parameters() if self.learned else ())]
        self.optimizer = torch.optim.Adam(weights, cfg.lr_d * cfg.feature_rate, (cfg.beta1, cfg.beta2), fused=True)
        self.values: dict[str, float] = {}
        self.tau = 0.0
        if cfg.diversity_weight > 0:
            self.tau = self.real_distance(train, vicinity, generator(seed, "cgan", "feature tau"))

    def parts(self) -> dict[str, nn.Module | torch.optim.Adam]:
        """What a resumed training needs of them."""
        return {"heads": self.heads, "embed_heads": self.embed, "opt_heads": self.optimizer}

    def pair_views(self, one_BCHW: Tensor, other_BCHW: Tensor, gen: torch.Generator, p: float | None) -> Tensor:
        """Two batches, one after the other, after DiffAugment with the same draws, which add nothing to what they differ by."""
        state = gen.get_state()
        first = diff_augment(one_BCHW, self.cfg.diffaugment, gen, self.cfg.cutout_share, p)
        gen.set_state(state)
        return torch.cat([first, diff_augment(other_BCHW, self.cfg.diffaugment, gen, self.cfg.cutout_share, p)])

    @torch.no_grad()
    def real_distance(self, train: Split, vicinity: Vicinity, gen: torch.Generator, num_pairs: int = 1000) -> float:
        """Mean distance of the pooled features of two real images of one target, seen through the same augmentation."""
        target_B = vicinity.targets(num_pairs, gen)
        first, second = vicinity.pair(target_B, gen), vicinity.pair(target_B, gen)
        weight_B = first.weight * second.weight * (first.index != second.index)
        total, weight = 0.0, float(weight_B.double().sum())
        if not weight > 0:
            raise ValueError(
                "cgan.features needs two training images of one label to measure how much their features differ, but no"
                " label has two; give more images, or set cgan.diversity_weight to 0"
            )
        for rows in torch.split(torch.arange(num_pairs), 128):
            images = [to_signed(train.images[pairing.index[rows]]).to(self.device) for pairing in (first, second)]
            with autocast(self.cfg.precision, self.device):
                seen_BF = pooled(self.features(self.pair_views(images[0], images[1], gen, None)))
            one_BF, other_BF = seen_BF.chunk(2)
            gap_B = (one_BF - other_BF).abs().mean(dim=1).double().cpu()
            total += float((weight_B[rows].double() * gap_B).sum())
        return total / weight

    def learn(self, both_BCHW: Tensor, target_B: Tensor, weights: tuple[Tensor, Tensor], step: int) -> None:
        """One step of the heads on augmented reals and, after them, as many fakes, with the weights of the vicinity of each."""
        cfg, num = self.cfg, len(target_B)
        d_loss = LOSSES[cfg.loss][0]
        self.heads.requires_grad_(True)
        self.embed.requires_grad_(self.learned)
        self.optimizer.zero_grad()
        total = 0.0
        for rows in micro_batches(num, cfg.accumulate, self.heads):
            h_BE = embed_labels(self.embed, target_B[rows])
            with autocast(cfg.precision, self.device):
                with torch.no_grad():
                    maps = self.features(both_BCHW[torch.cat([rows, rows + num])])
                score_K2B = self.heads(maps, torch.cat([h_BE, h_BE]))
            real_KB, fake_KB = score_K2B.chunk(2, dim=1)
            loss = d_loss(real_KB, fake_KB, weights[0][rows], weights[1][rows])
            total += backward(loss, cfg.accumulate, "cgan.feature_rate", step)
        sum_gradients(self.optimizer)
        self.optimizer.step()
        self.heads.requires_grad_(False)
        self.embed.requires_grad_(False)
        self.values["loss_d_features"] = total

    def pull(self, seen_BCHW: Tensor, label_B: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The generator's loss by the heads on augmented fakes, with the floor, weighted, and its parts for the log.

        With a floor the two halves of the batch are the fakes of `pair_views`, a label twice.
        """
        cfg = self.cfg
        with autocast(cfg.precision, self.device):
            maps = self.features(seen_BCHW)
            loss = LOSSES[cfg.loss][1](self.heads(maps, embed_labels(self.embed, label_B)))
        values = {"loss_g_features": float(loss.detach())}
        loss = cfg.feature_weight * loss
        if self.tau > 0:
            one_BF, other_BF = pooled(maps).chunk(2)
            too_near = diversity_floor(one_BF, other_BF, self.tau)
            loss = loss + cfg.diversity_weight * too_near
            values["floor_features"] = float(too_near.detach())
            values["diversity_ratio_features"] = float(mean_distance(one_BF, other_BF).detach()) / self.tau
        return loss, values
