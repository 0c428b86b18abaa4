"""FitNet, VID and FT: parity of the terms with torchdistill, shapes of the regressors, the paraphraser's phase."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cgankd.distill.base import DataSpec, ModelSpec
from cgankd.distill.losses.hints import FactorTransfer, FitNet, VariationalInformation, gaussian_rows
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, maps, mid_level, pairs


def shapes(*stages: tuple[int, int, int]) -> ModelSpec:
    return ModelSpec(3, stages[-1][0], stages)


@pytest.mark.parametrize(("height", "kind"), [(8, "Conv2d"), (4, "Conv2d"), (2, "ConvTranspose2d"), (3, "Conv2d")])
def test_fitnet_meets_the_teacher_at_any_size(height: int, kind: str) -> None:
    torch.manual_seed(0)
    fitnet = FitNet(hint_stage=-1)
    fitnet.build(shapes((3, height, height)), shapes((5, 4, 4)), DataSpec(9, 3, toys.SHAPE))
    assert type(fitnet.regressor[0]).__name__ == kind
    s, t = toys.only(stages=[draw(2, 3, height, height)]), toys.only(stages=[draw(2, 5, 4, 4)])
    loss = fitnet.losses(s, t, toys.batch(2))["hint"].detach()
    guess = fitnet.eval().regressor(s.stages[0]).detach()
    assert guess.shape[1] == 5 and bool(loss.isfinite())
    if height in (2, 4, 8):
        assert guess.shape == t.stages[0].shape
        value = fitnet.losses(s, t, toys.batch(2))["hint"].detach()
        assert float(value) == pytest.approx(100 * ((guess - t.stages[0]).numpy() ** 2).mean(), rel=1e-5)


def test_fitnet_names_a_stage_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"fitnet\.hint_stage must be from -2 to 1"):
        toys.built(FitNet(hint_stage=2), toys.net(), toys.net("plain-vgg", 8))


def test_the_gaussian_of_vid_is_that_of_torchdistill() -> None:
    mean, target = [draw(3, 5, 4, 4), draw(3, 6, 2, 2)], [draw(3, 5, 4, 4, seed=1), draw(3, 6, 2, 2, seed=1)]
    var = [F.softplus(draw(5)) + 1e-5, F.softplus(draw(6)) + 1e-5]
    ours = sum(gaussian_rows(m, v, t).mean() for m, v, t in zip(mean, var, target, strict=True))
    wide = [(m, v[None, :, None, None]) for m, v in zip(mean, var, strict=True)]
    assert torch.allclose(torch.as_tensor(ours), mid_level().VIDLoss(pairs(2))(maps(wide), maps(target)), rtol=1e-5)  # type: ignore[arg-type]


def test_vid_starts_at_its_variance_trains_it_and_leaves_it_undecayed() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    vid = toys.built(VariationalInformation(initial_variance=5.0), student, teacher)
    assert isinstance(vid, VariationalInformation)
    assert all(torch.allclose(F.softplus(theta) + 1e-5, torch.tensor(5.0)) for theta in vid.thetas)
    names = dict(vid.named_parameters())
    assert vid.no_decay() == {n for n in names if n.startswith("thetas")} and len(vid.no_decay()) == 2
    b = toys.batch()
    vid.losses(toys.shown(student, b), toys.frozen(teacher, b), b)["information"].backward()
    assert all(theta.grad is not None and float(theta.grad.abs().sum()) > 0 for theta in vid.thetas)


def test_the_minimum_of_vid_is_half_the_log_variance() -> None:
    t = draw(2, 3, 4, 4)
    assert torch.allclose(gaussian_rows(t, torch.full((3,), 0.1), t), torch.tensor(0.1).log() / 2)


def test_flat_factors_are_those_of_torchdistill() -> None:
    s, t = draw(4, 6, 3, 3), draw(4, 6, 3, 3, seed=1)
    ours = FactorTransfer(factor="flat").factor_rows(s, t).mean()
    assert torch.allclose(ours, mid_level().FTLoss()(io(translator=s), io(paraphraser=t)), rtol=1e-5)
    ours = FactorTransfer().factor_rows(s, t).mean()
    rows = [(x.numpy() ** 2).mean(1).reshape(4, -1) for x in (s, t)]
    unit = [r / (r**2).sum(1, keepdims=True) ** 0.5 for r in rows]
    assert float(ours) == pytest.approx(abs(unit[0] - unit[1]).mean(), rel=1e-5)


def test_the_paraphraser_learns_in_its_phase_and_rests_in_the_students() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ft = toys.built(FactorTransfer(), student, teacher)
    assert isinstance(ft, FactorTransfer)
    b = toys.batch()
    t = toys.frozen(teacher, b)
    optimizer = torch.optim.SGD(ft.phase_parameters("paraphraser"), 0.1)
    seen = []
    for _ in range(15):
        loss = ft.phase_losses("paraphraser", toys.only(), t, b)["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.7 * seen[0]
    before = {k: v.clone() for k, v in ft.encoder.state_dict().items()}
    ft.train()
    ft.losses(toys.shown(student, b), t, b)["factor"].backward()
    assert all(torch.equal(v, before[k]) for k, v in ft.encoder.state_dict().items())
    assert ft.translator[0].weight.grad is not None
    mine = {id(p) for p in ft.phase_parameters("train")}
    assert not mine & {id(p) for p in ft.phase_parameters("paraphraser")}
