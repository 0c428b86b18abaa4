"""IFM: the kernels and the divergence against numpy, the schedule, the auxiliary teacher's two phases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cgankd.distill.losses.information import InformationFlow, flow_gap
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw


def kernels(x: NDArray[np.float64], eps: float = 1e-6) -> list[NDArray[np.float64]]:
    num = len(x)
    cosine, near = np.empty((num, num)), np.empty((num, num))
    for i in range(num):
        for j in range(num):
            lengths = (np.linalg.norm(x[i]) + eps) * (np.linalg.norm(x[j]) + eps)
            cosine[i, j] = (x[i] @ x[j] / lengths + 1) / 2
            near[i, j] = 1 / (1 + np.sqrt(((x[i] - x[j]) ** 2).sum() + eps))
    return [k / k.sum(1, keepdims=True) for k in (cosine, near)]


def test_the_divergence_against_numpy() -> None:
    s, t = draw(6, 4), draw(6, 9)
    total = 0.0
    for a, b in zip(kernels(s.double().numpy()), kernels(t.double().numpy()), strict=True):
        total += ((b - a) * (np.log(b + 1e-6) - np.log(a + 1e-6))).mean()
    assert float(flow_gap(s, t)) == pytest.approx(total, rel=1e-3)
    assert float(flow_gap(s, t)) == pytest.approx(float(flow_gap(t, s)), rel=1e-5)
    assert float(flow_gap(s, s)) == 0


def test_early_layers_fade_by_whole_epochs() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ifm = toys.built(InformationFlow(), student, teacher)
    b = toys.batch()
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    at = {epoch: ifm.losses(s, t, b, epoch) for epoch in (0, 0.9, 3)}
    early = {epoch: float(terms["early"].detach()) for epoch, terms in at.items()}
    assert early[0] == early[0.9] and early[3] == pytest.approx(early[0] * 0.7**3, rel=1e-5)
    assert torch.equal(at[0]["pooled"], at[3]["pooled"])


def test_the_auxiliary_teacher_is_wider_and_learns_in_its_phases() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ifm = toys.built(InformationFlow(auxiliary_width=2.0), student, teacher)
    assert isinstance(ifm, InformationFlow)
    own, base = (sum(p.numel() for p in n.parameters()) for n in (ifm.auxiliary, student))
    assert own > 2 * base
    assert [p.name for p in ifm.phases()] == ["auxiliary_start", "auxiliary", "train"]
    assert ifm.phase_parameters("train") == []
    b = toys.batch(classes=3)
    t = toys.frozen(teacher, b)
    for phase in ("auxiliary_start", "auxiliary"):
        optimizer = torch.optim.Adam(ifm.phase_parameters(phase), 1e-2)
        seen = []
        for _ in range(8):
            loss = toys.total(ifm.phase_losses(phase, toys.only(), t, b))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
        assert seen[-1] < seen[0]
    before = {k: v.clone() for k, v in ifm.auxiliary.state_dict().items()}
    ifm.train()
    ifm.losses(toys.shown(student, b), t, b)
    assert all(torch.equal(v, before[k]) for k, v in ifm.auxiliary.state_dict().items())


def test_angles_start_from_labels_round_the_circle() -> None:
    student, teacher = toys.net(num_outputs=1), toys.net("plain-vgg", 8, 1)
    ifm = toys.built(InformationFlow(), student, teacher, toys.data(0, period=1.0))
    assert isinstance(ifm, InformationFlow)
    pred, y = torch.tensor([[0.95], [0.2]]), torch.tensor([0.05, 0.3])
    assert float(ifm._label_loss(pred, y)) == pytest.approx(0.1, rel=1e-4)
