"""FSP matrices by hand and against torchdistill; the phase that comes first; nets of unlike channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cgankd.distill.losses.flow import FlowOfSolution, fsp_matrix
from cgankd.distill.methods import METHODS
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level


def test_the_matrix_by_hand() -> None:
    first, second = draw(2, 3, 4, 4), draw(2, 5, 2, 2)
    halves = first.numpy().reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    expected = np.zeros((2, 3, 5))
    for y in range(2):
        for x in range(2):
            expected += halves[:, :, None, y, x] * second.numpy()[:, None, :, y, x] / 4
    np.testing.assert_allclose(fsp_matrix(first, second).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_matrix_is_that_of_torchdistill_where_maps_are_of_one_size() -> None:
    # torchdistill pools by the maximum (the paper's way) and sums lengths of columns instead of squares of entries.
    first, second = draw(2, 3, 4, 4), draw(2, 5, 4, 4)
    theirs = mid_level().FSPLoss
    assert torch.allclose(fsp_matrix(first, second), theirs.compute_fsp_matrix(first, second), rtol=1e-5)
    maps = [draw(2, c, 4, 4, seed=seed) for seed, c in ((0, 3), (1, 5), (2, 3), (3, 5))]
    ends = {f"{who}_{at}": {"io": "output", "path": at} for who in ("teacher", "student") for at in ("first", "second")}
    found = theirs({"pair": ends})(io(first=maps[0], second=maps[1]), io(first=maps[2], second=maps[3]))
    gap = fsp_matrix(maps[0], maps[1]) - fsp_matrix(maps[2], maps[3])
    assert float(found) == pytest.approx(float(gap.square().sum(1).sqrt().sum() / 2), rel=1e-5)


def same_channels() -> tuple[FlowOfSolution, nn.Module, nn.Module]:
    torch.manual_seed(0)
    student, teacher = toys.net("convnet", 8), toys.net("convnet", 8)
    method = FlowOfSolution(training="joint", flow_weight=3.0)
    toys.built(method, student, teacher)
    return method, student, teacher


def test_the_loss_is_the_mean_square_of_the_matrices_differences_summed_over_stages() -> None:
    method, student, teacher = same_channels()
    assert list(method.parameters()) == []
    b = toys.batch(5)
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    expected = 0.0
    for k in range(len(s.stages) - 1):
        gap = fsp_matrix(*s.stages[k : k + 2]) - fsp_matrix(*t.stages[k : k + 2])
        expected += 3.0 * float(gap.detach().square().mean())
    assert method.losses(s, t, b)["flow"].item() == pytest.approx(expected, rel=1e-5)


def test_the_phase_comes_first_and_the_training_after_it_is_plain() -> None:
    torch.manual_seed(0)
    method, student, teacher = FlowOfSolution(), toys.net("convnet", 4), toys.net("plain-vgg", 8)
    toys.built(method, student, teacher)
    first, last = method.phases()
    assert first.uses_student and first.share == 0.125 and last.name == "train"
    b = toys.batch(5)
    s, t = toys.shown(student, b), toys.frozen(teacher, b)
    assert method.losses(s, t, b)["flow"].item() == 0
    optimizer, seen = torch.optim.Adam([*student.parameters(), *method.phase_parameters("flow")], 3e-3), []
    for _ in range(20):
        loss = method.phase_losses("flow", toys.shown(student, b), t, b)["flow"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.7 * seen[0]
    assert method.phase_parameters("train") == []


@pytest.mark.parametrize("name", ["fsp", "kdsvd"])
def test_one_stage_has_no_next_one(name: str) -> None:
    student, teacher = toys.spec(toys.net("convnet", 4)), toys.spec(toys.net("plain-vgg", 8))
    method = METHODS[name]()
    with pytest.raises(
        ValueError, match=rf"^{name} compares how one stage goes with the next, but .* one stage in common"
    ):
        method.build(replace(student, stages=student.stages[-1:]), teacher, toys.data())


@pytest.mark.parametrize(("student", "teacher"), [("convnet", "plain-vgg"), ("plain-vgg", "convnet")])
def test_a_connector_stands_where_channels_differ(student: str, teacher: str) -> None:
    torch.manual_seed(0)
    method, mine, theirs = FlowOfSolution(training="joint"), toys.net(student, 4), toys.net(teacher, 8)
    toys.built(method, mine, theirs)
    b = toys.batch(5)
    found = method.losses(toys.shown(mine, b), toys.frozen(theirs, b), b)["flow"]
    found.backward()  # type: ignore[no-untyped-call]
    own = list(method.parameters())
    assert own and all(p.grad is not None and p.grad.isfinite().all() for p in own)
    channels = [(a[0].in_channels, a[0].out_channels) for a in method.adapters if isinstance(a, nn.Sequential)]
    pairs = [(toys.spec(mine).stages[i][0], toys.spec(theirs).stages[j][0]) for i, j in method.pairs]
    assert channels == [(s, t) for s, t in pairs if s != t]
