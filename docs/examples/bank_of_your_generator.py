"""A bank from a generator that is not cgankd's: M1 by a ratio that is known here, M2's filter by a teacher's error.

The generator draws one grey level an image, evenly from 0 to 255. Real images of class 0 are dark, p(x) falling
linearly to zero; those of class 1 are bright. So r(x given y) = p_real / p_fake is 2 (1 - u) or 2 u for a level
u = x / 255, and accepted fakes have a mean level of 1/3 and 2/3.
"""

import torch
from torch import Tensor

import cgankd
from cgankd.config import BankConfig
from cgankd.types import DatasetInfo

info = DatasetInfo(
    kind="class",
    source="levels",
    label_unit="",
    channels=1,
    image_size=8,
    class_names=("dark", "bright"),
    pixel_mean=(0.5,),
    pixel_std=(0.29,),
)


def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
    """uint8 images [B, 1, 8, 8] of one even level each, whatever the label."""
    level_B = torch.randint(0, 256, (len(label_B),), generator=gen)
    return level_B.to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()


def ratio(images_BCHW: Tensor, label_B: Tensor) -> Tensor:
    """r(x given y) [B]."""
    u_B = images_BCHW[:, 0, 0, 0].double() / 255
    return 2 * torch.where(label_B == 1, u_B, 1 - u_B)


def teacher(images_BCHW: Tensor) -> Tensor:
    """Class logits [B, 2] of a teacher that calls an image bright above the middle."""
    u_B = images_BCHW[:, 0, 0, 0].float() / 255
    return 8 * torch.stack([0.5 - u_B, u_B - 0.5], dim=1)


def build(bank: BankConfig, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Selection -> (images, labels) of a bank of `bank.num_fakes` fakes."""
    task = cgankd.ClassTask(info)
    scorer = cgankd.Scorer(draw, ratio, teacher, task)
    conditions = cgankd.arrange(task, torch.tensor([0, 1]), bank, seed=seed)
    source = cgankd.Source(scorer, conditions, bank, seed)
    limits = cgankd.burn_in(source)
    wanted = ("subsample", "filter")
    groups, blocks = [], []
    for block in cgankd.grow_pool(source, limits, wanted):
        blocks.append(block)
        groups.append(block.columns(int(block.asked[0])))
    columns = cgankd.Columns.joined(groups)
    images, labels = torch.cat([b.images for b in blocks]), torch.cat([b.asked for b in blocks])
    rows = {name: cgankd.select(name, columns, limits, conditions.quota_G) for name in wanted}
    return {name: (images[row], labels[row]) for name, row in rows.items()}
