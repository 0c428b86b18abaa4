"""The plain way, written out: float32, eager, NCHW, spectral norms computed in each pass, nothing kept for later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.place import place
from cgankd.config import CganConfig
from cgankd.data.pixels import signed_to_u8, to_signed
from cgankd.gan.augment import diff_augment
from cgankd.gan.losses import hinge_d, hinge_g
from cgankd.nets.gans.zoo import make_discriminator, make_generator
from cgankd.rng import generator, seed_all
from cgankd.types import Split, Vicinity


def nchw(net: nn.Module) -> nn.Module:
    """The net without the channels-last layout that it asks for at its first block."""
    blocks: Any = net.blocks

    def contiguous(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].contiguous(), *args[1:])

    blocks[0].register_forward_pre_hook(contiguous)
    return net


def sampler(net: nn.Module, embed: nn.Module, z_dim: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Images uint8 [B, C, H, W] for labels [B]."""
    net, embed = nchw(copy.deepcopy(net)).eval().to(place()), copy.deepcopy(embed).to(place())

    @torch.no_grad()
    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        z_BZ = torch.randn(len(label_B), z_dim, generator=gen).to(place())
        return signed_to_u8(net(z_BZ, embed(label_B.to(place())))).cpu()

    return draw


def gan_step(
    train: Split, vicinity: Vicinity, embed: nn.Module, cfg: CganConfig, *, keep_graph: bool
) -> Callable[[], None]:
    """One step of both nets; `keep_graph`: the generator's pass for the discriminator is not detached early (CcGAN)."""
    seed_all("plain gan")
    size = train.images.shape[-1]
    net_g, net_d = (nchw(make(cfg, 3, size)).to(place()) for make in (make_generator, make_discriminator))
    embed.to(place())
    betas = (cfg.beta1, cfg.beta2)
    opt_g, opt_d = (
        torch.optim.Adam(net.parameters(), rate, betas) for net, rate in ((net_g, cfg.lr_g), (net_d, cfg.lr_d))
    )
    gen, num = generator("plain gan"), cfg.batch_size

    def latents() -> Tensor:
        return torch.randn(num, cfg.z_dim, generator=gen).to(place())

    def augmented(x_BCHW: Tensor) -> Tensor:
        return diff_augment(x_BCHW, cfg.diffaugment, gen, cfg.cutout_share).contiguous()

    def step() -> None:
        for _ in range(cfg.d_steps):
            target_B = vicinity.targets(num, gen)
            pairing = vicinity.pair(target_B, gen)
            label_B, weight_B = (part.to(place()) for part in vicinity.fake_labels(target_B, gen))
            real_BCHW = to_signed(train.images[pairing.index].to(place()))
            with torch.set_grad_enabled(keep_graph):
                fake_BCHW = net_g(latents(), embed(label_B).detach())
            h_BE = embed(target_B.to(place())).detach()
            real_B, fake_B = net_d(augmented(real_BCHW), h_BE), net_d(augmented(fake_BCHW.detach()), h_BE)
            loss = hinge_d(real_B, fake_B, pairing.weight.to(place()), weight_B)
            opt_d.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            opt_d.step()
        h_BE = embed(vicinity.targets(num, gen).to(place())).detach()
        fake_BCHW = net_g(latents(), h_BE)
        opt_g.zero_grad()
        hinge_g(net_d(augmented(fake_BCHW), h_BE)).backward()  # type: ignore[no-untyped-call]
        opt_g.step()

    return step


def shifted_and_flipped(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Random crop of the image padded by 4, and a flip, image by image."""
    size = unit_BCHW.shape[-1]
    parts = []
    for image_CHW in unit_BCHW:
        top, left, flip = torch.randint(0, 9, (3,), generator=gen).tolist()
        crop = F.pad(image_CHW, (4, 4, 4, 4))[:, top : top + size, left : left + size]
        parts.append(crop.flip(2) if flip % 2 else crop)
    return torch.stack(parts)
