"""The losses of the conditional GAN as pure functions of scores, weights and images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cgankd.labels.circle import miss


def hinge_d(real_B: Tensor, fake_B: Tensor, weight_real_B: Tensor, weight_fake_B: Tensor) -> Tensor:
    """Weighted hinge loss of the discriminator: mean w_r max(0, 1 - D(real)) + mean w_f max(0, 1 + D(fake)).

    With unit weights it is the plain hinge loss (Lim and Ye, arXiv 1705.02894); with the weights of a vicinity it is
    the hinge form of HVDL and SVDL (arXiv 2011.07466).
    """
    return (weight_real_B * F.relu(1 - real_B)).mean() + (weight_fake_B * F.relu(1 + fake_B)).mean()


def hinge_g(fake_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Generator's side of the hinge loss: -mean w D(fake); no weights means ones."""
    return -fake_B.mean() if weight_B is None else -(weight_B * fake_B).mean()


def vanilla_d(real_B: Tensor, fake_B: Tensor, weight_real_B: Tensor, weight_fake_B: Tensor) -> Tensor:
    """Weighted cross-entropy of the discriminator: -mean w_r log s(D(real)) - mean w_f log(1 - s(D(fake))), s = sigmoid.

    Goodfellow et al., arXiv 1406.2661, with the weights of HVDL and SVDL (arXiv 2011.07466).
    """
    return (weight_real_B * F.softplus(-real_B)).mean() + (weight_fake_B * F.softplus(fake_B)).mean()


def vanilla_g(fake_B: Tensor) -> Tensor:
    """Generator's side of it, the one that does not saturate: -mean log s(D(fake))."""
    return F.softplus(-fake_B).mean()


LOSSES = {"hinge": (hinge_d, hinge_g), "vanilla": (vanilla_d, vanilla_g)}
"""`cgan.loss` to the losses of discriminator and generator."""


def mean_distance(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Mean absolute pixel difference of two batches, a scalar."""
    return (a_BCHW - b_BCHW).abs().mean()


def diversity_floor(a_BCHW: Tensor, b_BCHW: Tensor, target: float) -> Tensor:
    """max(0, tau - d) / tau, where d is the mean L1 distance between fakes of the same labels and other latents.

    It is zero once the fakes of one label differ as much as real images of one label do (`target`, in [-1, 1] pixels),
    and one where the generator ignores its latent.
    """
    assert target > 0, "real images of one label must differ"
    return F.relu(target - mean_distance(a_BCHW, b_BCHW)) / target


def label_miss(answer_BO: Tensor, unit_B: Tensor, period: float | None) -> Tensor:
    """Mean squared distance of answers from normalised labels [B], on a circle that of the chord (`circle.miss`), a scalar.

    The auxiliary regression of CcGAN-AVAR (arXiv 2508.01725): of real images against their own labels it teaches the
    discriminator, of fakes against the labels asked it pulls the generator.
    """
    return miss(answer_BO.float(), unit_B.float(), period).square().mean()
