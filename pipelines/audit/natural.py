"""How natural the fakes look: NIQE with models fitted to the training images, over all labels and within each."""

from __future__ import annotations

import torch
from torch import Tensor

from cgankd.measure.findings import Finding
from cgankd.measure.niqe import fit_natural, niqe
from cgankd.rng import generator
from cgankd.types import Images, Split
from pipelines.audit.numbers import Sets, mean, pair

MOST_NATURAL, LEAST_NATURAL = 1000, 10
"""Images of each side whose NIQE is taken, and the fewest training images of a group that a model is fitted to."""


def natural_findings(sets: Sets) -> list[Finding]:
    """NIQE of fakes and of validation images against the training images, over all labels and within each group."""

    def part(split: Split, name: str) -> tuple[Images, Tensor]:
        row = torch.randperm(len(split), generator=generator(sets.seed, "audit niqe", name))[:MOST_NATURAL]
        return split.images[row], sets.task.filter_groups(split.labels[row])

    (bank, bank_group), (val, val_group), (train, train_group) = (
        part(split, name) for split, name in ((sets.bank, "bank"), (sets.val, "val"), (sets.train, "train"))
    )
    model = fit_natural(train)
    whole = pair(lambda images: float(niqe(images, model).mean()), bank, val)
    found = [Finding("niqe", *whole, "NIQE, how unnatural fakes look beside the training images; lower is better")]
    groups = [
        (bank[bank_group == g], val[val_group == g], train[train_group == g])
        for g in torch.unique(train_group).tolist()
    ]
    usable = [group for group in groups if min(len(group[0]), len(group[1])) >= 1 and len(group[2]) >= LEAST_NATURAL]
    if usable:
        fake, real = [], []
        for fakes, held, images in usable:
            model = fit_natural(images)
            fake.append(float(niqe(fakes, model).mean()))
            real.append(float(niqe(held, model).mean()))
        text = f"the same within a class or label bin, mean over {len(usable)} of them"
        found.append(Finding("niqe.intra_label", mean(fake), mean(real), text))
    return found
