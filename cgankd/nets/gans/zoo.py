"""Generators and discriminators by `cgan.arch`: all take (z [B, Z], h [B, E]) or (images, h), whatever kind the label is."""

from __future__ import annotations

from torch import nn

from cgankd.config import CganConfig
from cgankd.nets.gans.deep import DeepDiscriminator, DeepGenerator
from cgankd.nets.gans.discriminator import Discriminator
from cgankd.nets.gans.generator import Generator
from cgankd.nets.gans.plans import Plan, make_plan
from cgankd.nets.gans.residual import ResidualDiscriminator, ResidualGenerator

AnyGenerator = Generator | ResidualGenerator | DeepGenerator
"""What `cgan.arch` may be; each knows its `channels` and `image_size`."""


def make_generator(cfg: CganConfig, channels: int, image_size: int) -> AnyGenerator:
    """A fresh generator of `cgan.arch` for images [B, channels, image_size, image_size]."""
    net: AnyGenerator
    norms = {"spectral": cfg.spectral_g, "gains": cfg.spectral_gains}
    if cfg.arch == "compact":
        net = Generator(cfg.z_dim, cfg.embed_dim, cfg.width, channels, image_size, **norms)
    elif cfg.arch == "biggan-deep":
        net = DeepGenerator(cfg.embed_dim + cfg.z_dim, cfg.width, channels, plan_of(cfg, image_size), **norms)
    else:
        net = ResidualGenerator(cfg.z_dim, cfg.embed_dim, cfg.width, channels, plan_of(cfg, image_size), **norms)
    initialise(net, cfg)
    return net


def make_discriminator(cfg: CganConfig, channels: int, image_size: int) -> nn.Module:
    """A fresh discriminator of `cgan.arch`."""
    net: nn.Module
    if cfg.arch == "compact":
        net = Discriminator(cfg.embed_dim, cfg.width, channels, image_size)
    else:
        kind = DeepDiscriminator if cfg.arch == "biggan-deep" else ResidualDiscriminator
        net = kind(cfg.embed_dim, cfg.width, channels, plan_of(cfg, image_size))
    initialise(net, cfg)
    return net


def plan_of(cfg: CganConfig, image_size: int) -> Plan:
    """The plan of a residual GAN by its settings."""
    return make_plan(cfg.arch, image_size, cfg.attention, cfg.shared_embed, cfg.d_style)


def initialise(net: nn.Module, cfg: CganConfig) -> None:
    """Draw the weights of all convolutions and linear layers as `cgan.init` says; they are made orthogonal.

    For "xavier" those of sngan's blocks are larger by sqrt(2) and its gain and shift maps start as torch has it, both as
    in the authors' code; gains and shifts are two maps there, and so each has its own range.
    """
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if cfg.init == "n02":
            nn.init.normal_(layer.weight, std=0.02)
        elif cfg.init == "xavier":
            sngan, last = cfg.arch == "sngan", name.rpartition(".")[2]
            if last != "gain_shift":
                nn.init.xavier_uniform_(layer.weight, gain=2**0.5 if sngan and last in ("conv1", "conv2") else 1.0)
            elif sngan:
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
            else:
                for half in layer.weight.data.chunk(2):
                    nn.init.xavier_uniform_(half)
