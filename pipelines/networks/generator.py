"""Whatever draws fakes, as a saved GAN or a generator of the user's own, back as a function of labels."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cgankd.config import CganConfig
from cgankd.config.settings import from_dict
from cgankd.fit.device import PLAIN, Plan
from cgankd.gan.sample import make_draw
from cgankd.nets.gans.zoo import make_generator
from cgankd.types import DatasetInfo, Draw, Task
from pipelines.files.artifacts import load_weights
from pipelines.networks import own_generator
from pipelines.networks.origin import check_origin, understood


def load_source(
    path: Path, info: DatasetInfo, task: Task, *, reuse: bool, plan: Plan = PLAIN, expected: int = 0
) -> tuple[Draw, nn.Module, int]:
    """Whatever draws fakes, the label embedding that belongs to it (frozen), and that one's length E.

    `reuse` is for a finite set of images (cgankd.gan.own_images): whether its images may come again and again.
    """
    weights, config = load_weights(path, ("info", "cgan"))
    check_origin(config, info, path)
    with understood(path):
        cgan = from_dict(CganConfig, config["cgan"], "cgan.")
        embed = task.label_embed(cgan.embed_dim)
        if config.get("own") is not None:
            draw = own_generator.make_draw(weights, own_generator.Own(**config["own"]), cgan, info, task, reuse=reuse)
            embed.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("embed.")})
        else:
            generator = make_generator(cgan, info.channels, info.image_size)
            nn.ModuleDict({"generator": generator, "embed": embed}).load_state_dict(weights)
            draw = make_draw(generator, embed, z_dim=cgan.z_dim, precision=cgan.precision, plan=plan, expected=expected)
    return draw, embed.eval().requires_grad_(False), cgan.embed_dim


def load_draw(path: Path, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0) -> Draw:
    """The generator as a function from labels to uint8 images, `expected` of which are to come.

    A finite set of images is dealt, none comes twice.
    """
    return load_source(path, info, task, reuse=False, plan=plan, expected=expected)[0]
