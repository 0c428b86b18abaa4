"""The loss of a student that is shown a table of the teacher's outputs, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from cgankd.data.batches import Batch
from cgankd.fit.device import PLAIN, Forward
from cgankd.fit.taught import Taught
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from tests.bank.toys import class_task


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_loss_by_numpy_with_the_rows_of_the_batch(weight: float) -> None:
    task, gen = class_task(3), torch.Generator().manual_seed(0)
    table = 3 * torch.randn(20, 3, generator=gen)
    torch.manual_seed(0)
    net: nn.Module = make_predictor("convnet", NetShape(3, 1, 16), width=4, mean=(0.5,), std=(0.5,)).eval()
    index, label = torch.tensor([7, 19, 0, 7]), torch.tensor([2, 0, 1, 2])
    images = torch.rand(4, 1, 16, 16, generator=gen)
    batch = Batch((255 * images).to(torch.uint8), label, index, index > 9)
    forward = Forward(net, "fp32", PLAIN, 4)
    parts = Taught(task, table, 2.0, weight)(forward, images, batch, 0)
    out = net(images).detach().double().numpy()
    hard = -log_softmax(out, axis=1)[np.arange(4), label.numpy()].mean()
    soft, seen = log_softmax(table[index].double().numpy() / 2, axis=1), log_softmax(out / 2, axis=1)
    kl = 4 * (np.exp(soft) * (soft - seen)).sum(1).mean()
    assert parts["loss"].item() == pytest.approx((1 - weight) * hard + weight * kl, rel=1e-4)
    assert parts["hard"].item() == pytest.approx(hard, rel=1e-4) and parts["soft"].item() == pytest.approx(kl, rel=1e-4)
