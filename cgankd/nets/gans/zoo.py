"""Generators and discriminators by `cgan.arch`: all take (z [B, Z], h [B, E]) or (images, h), whatever kind the label is."""

from __future__ import annotations

from torch import nn

from cgankd.config import CganConfig
from cgankd.nets.gans.discriminator import Discriminator
from cgankd.nets.gans.generator import Generator
from cgankd.nets.gans.plans import make_plan
from cgankd.nets.gans.residual import ResidualDiscriminator, ResidualGenerator


def make_generator(cfg: CganConfig, channels: int, image_size: int) -> Generator | ResidualGenerator:
    """A fresh generator of `cgan.arch` for images [B, channels, image_size, image_size]."""
    net: Generator | ResidualGenerator
    if cfg.arch == "compact":
        net = Generator(cfg.z_dim, cfg.embed_dim, cfg.width, channels, image_size, spectral=cfg.spectral_g)
    else:
        plan = make_plan(cfg.arch, image_size, cfg.attention, cfg.shared_embed)
        net = ResidualGenerator(cfg.z_dim, cfg.embed_dim, cfg.width, channels, plan, spectral=cfg.spectral_g)
    initialise(net, cfg.init)
    return net


def make_discriminator(cfg: CganConfig, channels: int, image_size: int) -> Discriminator | ResidualDiscriminator:
    """A fresh discriminator of `cgan.arch`."""
    net: Discriminator | ResidualDiscriminator
    if cfg.arch == "compact":
        net = Discriminator(cfg.embed_dim, cfg.width, channels, image_size)
    else:
        plan = make_plan(cfg.arch, image_size, cfg.attention, cfg.shared_embed)
        net = ResidualDiscriminator(cfg.embed_dim, cfg.width, channels, plan)
    initialise(net, cfg.init)
    return net


def initialise(net: nn.Module, init: str) -> None:
    """Draw the weights of all convolutions and linear layers from N(0, 0.02^2) for "n02"; they are made orthogonal."""
    if init == "n02":
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
