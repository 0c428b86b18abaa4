"""sdd and ofa_kd: regions whose mean is the whole, branches, and plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgankd.distill.base import ModelSpec, TaskNotSupported
from cgankd.distill.losses.decoupled import DecoupledKD
from cgankd.distill.losses.kd import KD
from cgankd.distill.losses.regions import Branch, OneForAll, ScaleDecoupled, position_logits, region_logits
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import generator
from cgankd.types import Outputs
from tests.distill.logit_toys import batch, build, data_spec, kl, labels, log_p, logits, number, total

Y = labels(6)


def pooled_net(name: str, size: int = 4, channels: int = 3, bias: bool = True) -> Outputs:
    """Outputs of a net with a linear layer on the mean of its last map, in float64."""
    gen = generator("map", name)
    x = torch.randn(6, channels, size, size, generator=gen, dtype=torch.float64).requires_grad_()
    head = nn.Linear(channels, 5, bias).double()
    return Outputs(head(x.mean((2, 3))), x.mean((2, 3)), (x,), head=head)


def flattened_net(name: str) -> Outputs:
    """The same with a linear layer on the flattened map."""
    x = torch.randn(6, 3, 4, 4, generator=generator("map", name), dtype=torch.float64).requires_grad_()
    head = nn.Linear(48, 5).double()
    return Outputs(head(x.flatten(1)), x.flatten(1), (x,), head=head)


@pytest.mark.parametrize("make", [pooled_net, flattened_net])
def test_regions_of_a_grid_average_to_the_logits(make: type) -> None:
    out: Outputs = make("net")
    logits_BOHW = position_logits(out, "sdd", "student")
    for scale in (1, 2, 4):
        cells_BRO = region_logits(logits_BOHW, (scale,))
        assert cells_BRO.shape == (6, scale**2, 5)
        torch.testing.assert_close(cells_BRO.mean(dim=1), out.pred)


def test_a_region_of_a_pooled_net_is_the_head_on_the_mean_of_its_cells() -> None:
    out = pooled_net("net", bias=False)
    assert out.head is not None
    want = out.head(out.stages[0][:, :, 2:, :2].mean((2, 3)))
    torch.testing.assert_close(region_logits(position_logits(out, "sdd", "student"), (2,))[:, 2], want)


@pytest.mark.parametrize("base", ["kd", "dkd"])
def test_scale_1_alone_is_the_base_loss(base: str) -> None:
    s, t = pooled_net("s"), flattened_net("t")
    found = number(ScaleDecoupled(scales=(1,), base=base, warmup_epochs=0).losses(s, t, batch(Y))["regions"])  # type: ignore[arg-type]
    plain = KD() if base == "kd" else DecoupledKD(warmup_epochs=0)
    assert found == pytest.approx(total(plain, s.pred, t.pred, batch(Y)) * (1 if base == "kd" else 0.9), rel=1e-9)


def test_regions_where_the_teacher_changes_its_mind_count_twice() -> None:
    s, t = pooled_net("s"), pooled_net("t")
    want, twice = 0.0, 0
    right = t.pred.argmax(1) == Y
    for scale in (1, 2, 4):
        cells = [region_logits(position_logits(net, "sdd", "net"), (scale,)).detach() for net in (s, t)]
        for cell in range(scale**2):
            weight = np.where((cells[1][:, cell].argmax(1) == Y) == right, 1.0, 2.0)
            twice += int((weight == 2).sum())
            want += (weight * 16 * kl(log_p(cells[1][:, cell], 4), log_p(cells[0][:, cell], 4))).mean()
    assert 0 < twice < 6 * 21
    assert number(ScaleDecoupled().losses(s, t, batch(Y))["regions"]) == pytest.approx(0.9 * want / 21, rel=1e-9)


def test_sdd_teaches_the_students_map_and_head_alone() -> None:
    s, t = pooled_net("s"), pooled_net("t")
    loss = ScaleDecoupled().losses(s, t, batch(Y, [True, False] * 3))["regions"]
    loss.backward()
    assert s.stages[0].grad is not None and s.stages[0].grad.abs().sum() > 0
    assert s.head is not None and s.head.weight.grad is not None  # type: ignore[union-attr]
    assert t.stages[0].grad is None and t.head is not None and t.head.weight.grad is None  # type: ignore[union-attr]
    same = ScaleDecoupled().losses(t, t, batch(Y))["regions"]
    assert number(same) == pytest.approx(0, abs=1e-12)


def test_sdd_refuses_nets_whose_head_is_not_on_the_map_and_grids_finer_than_it() -> None:
    hidden = Outputs(torch.zeros(2, 5), torch.zeros(2, 7), (torch.zeros(2, 3, 4, 4),), head=nn.Linear(7, 5))
    with pytest.raises(ValueError, match="the teacher's last linear layer does not act on that map"):
        ScaleDecoupled().losses(pooled_net("s"), hidden, batch(Y[:2]))
    fine, coarse = (ModelSpec(num_outputs=5, pooled_dim=3, stages=((3, n, n),)) for n in (4, 2))
    with pytest.raises(ValueError, match=r"sdd.scales holds 4, but the teacher's last map is 2 wide; leave out"):
        ScaleDecoupled().build(fine, coarse, data_spec())
    ScaleDecoupled(scales=(1, 2)).build(fine, coarse, data_spec())
    with pytest.raises(ValueError, match="sdd.scales must be whole numbers from 1 up"):
        ScaleDecoupled(scales=(0, 2))


def test_sdd_sees_a_hidden_layer_as_wide_as_the_last_map_before_training() -> None:
    def spec(name: str) -> ModelSpec:
        net = make_predictor(name, NetShape(5, 1, 16), width=4, mean=[0.5], std=[0.25]).train()
        out = net.outputs(torch.rand(2, 1, 16, 16))
        assert out.pooled is not None
        shapes = tuple((x.shape[1], x.shape[2], x.shape[3]) for x in out.stages)
        return ModelSpec(5, out.pooled.shape[1], shapes, net)

    data = dataclasses.replace(data_spec(), image_shape=(1, 16, 16))
    hidden = spec("plain-vgg")
    fake = dataclasses.replace(hidden, net=AsWide())
    ScaleDecoupled().build(spec("convnet"), spec("convnet"), data)
    for teacher in (hidden, fake):
        with pytest.raises(ValueError, match="the teacher's last linear layer does not act on that map"):
            ScaleDecoupled().build(spec("convnet"), teacher, data)
    assert hidden.net is not None and hidden.net.training


class AsWide(nn.Module):
    """A net with a hidden layer of as many units as its last map has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 3, 4, 4), nn.Linear(3, 3), nn.Linear(3, 5)

    def outputs(self, x: Tensor) -> Outputs:
        stage = self.conv(x)
        pooled = self.hidden(stage.mean((2, 3)))
        return Outputs(self.head(pooled), pooled, (stage,), head=self.head)


STAGES = ((4, 8, 8), (6, 4, 4), (8, 4, 4))


def one_for_all(**options: float | tuple[int, ...]) -> OneForAll:
    method = OneForAll(**options)  # type: ignore[arg-type]
    spec = ModelSpec(num_outputs=5, pooled_dim=8, stages=STAGES)
    method.build(spec, spec, data_spec())
    return method


def staged(num: int = 6) -> Outputs:
    maps = [torch.rand(num, *shape, generator=generator("stage", str(shape))).requires_grad_() for shape in STAGES]
    return Outputs(logits(num).detach().float().requires_grad_(), stages=tuple(maps))


@pytest.mark.parametrize("enhancement", [1.0, 1.5])
def test_ofa_is_its_formula(enhancement: float) -> None:
    s, t = logits(6), logits(6, name="teacher")
    one_hot = np.eye(5)[Y.numpy()]
    target = (np.exp(log_p(t)) + one_hot) ** enhancement - one_hot
    want = -(target * log_p(s)).sum(axis=1).mean()
    method = OneForAll(enhancement=enhancement)
    method.chosen, method.branches = (), nn.ModuleList()
    assert total(method, s, t, batch(Y)) == pytest.approx(want, rel=1e-9)
    if enhancement == 1:
        soft = nn.functional.cross_entropy(s, t.softmax(1))
        assert total(method, s, t, batch(Y)) == pytest.approx(number(soft), rel=1e-9)


def test_ofa_adds_the_same_loss_of_every_branch() -> None:
    method, s, t = one_for_all(enhancement=1.5, branch_weight=0.5), staged(), logits(6, name="teacher").float()
    alone = OneForAll(enhancement=1.5)
    alone.chosen, alone.branches = (), nn.ModuleList()
    each = [total(alone, b(x), t, batch(Y)) for b, x in zip(method.branches, s.stages, strict=True)]
    assert number(method.losses(s, Outputs(t), batch(Y))["branches"]) == pytest.approx(0.5 * sum(each), rel=1e-5)


@pytest.mark.parametrize("num", [1, 6])
def test_ofa_reaches_all_stages_and_its_own_parameters(num: int) -> None:
    method, s, t = one_for_all().train(), staged(num), logits(num, name="teacher").float().detach().requires_grad_()
    sum(method.losses(s, Outputs(t), batch(Y[:num])).values()).backward()  # type: ignore[union-attr]
    grads: list[Tensor | None] = [p.grad for p in method.parameters()] + [x.grad for x in s.stages] + [s.pred.grad]
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)
    assert t.grad is None


def test_a_branch_runs_through_the_later_stages_shapes() -> None:
    shapes = [tuple(layer.weight.shape) for layer in Branch(STAGES, 5) if isinstance(layer, nn.Conv2d)]
    assert shapes == [(4, 1, 3, 3), (6, 4, 1, 1), (6, 1, 3, 3), (8, 6, 1, 1)]
    assert [layer.stride[0] for layer in Branch(STAGES, 5) if isinstance(layer, nn.Conv2d)] == [2, 1, 1, 1]


def test_ofa_takes_the_named_stages() -> None:
    assert len(one_for_all(stages=(1, 3)).branches) == 2
    with pytest.raises(ValueError, match=r"ofa_kd.stages must be numbers from 1 to 3, but is \[4\]"):
        one_for_all(stages=(4,))
    with pytest.raises(TaskNotSupported, match="ofa_kd compares class logits"):
        build(OneForAll(), num_classes=0)


def test_both_run_on_the_nets_of_the_zoo() -> None:
    net = make_predictor("convnet", NetShape(5, 1, 16), width=4, mean=[0.5], std=[0.25])
    s = net.outputs(torch.rand(6, 1, 16, 16))
    t = Outputs(logits(6, name="teacher").float(), stages=s.stages, head=s.head)
    spec = ModelSpec(5, 0, tuple((x.shape[1], x.shape[2], x.shape[3]) for x in s.stages))
    for method in (ScaleDecoupled(), OneForAll()):
        method.build(spec, spec, data_spec())
        assert all(torch.isfinite(term) for term in method.losses(s, t, batch(Y)).values())
