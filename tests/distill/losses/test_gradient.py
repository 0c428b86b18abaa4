"""kdiga: image gradients against closed forms of linear nets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, ModelSpec
from cgankd.distill.losses.gradient import InputGradient, image_gradient
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import generator
from cgankd.types import Outputs
from tests.distill.logit_toys import data_spec, number

X = torch.rand(6, 1, 8, 8, generator=generator("images"), dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 1, 0, 2])


def linear(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs)).double()


def conv(width: int, outputs: int = 3) -> nn.Module:
    return make_predictor("convnet", NetShape(outputs, 1, 8), width=width, mean=[0.5], std=[0.25])


def built(student: nn.Module | None, teacher: nn.Module | None, classes: int = 3, **options: float) -> InputGradient:
    method = InputGradient(**options)
    specs = [ModelSpec(num_outputs=max(classes, 1), pooled_dim=4, stages=(), net=net) for net in (student, teacher)]
    method.build(*specs, data_spec(classes))
    return method


def run(method: InputGradient, x: Tensor, y: Tensor, is_fake: Tensor | None = None) -> dict[str, Tensor]:
    student, teacher = method.student_spec.net, method.teacher_spec.net
    assert student is not None and teacher is not None
    return method.losses(Outputs(student(x)), Outputs(teacher(x)), Batch({"plain": x}, y, is_fake=is_fake))


def softmax_gradient(net: nn.Module) -> np.ndarray:
    """W' (p - 1_y) of a linear classifier, [B, pixels]."""
    weight, p = net[1].weight.detach(), net(X).detach().softmax(1)  # type: ignore[index]
    return ((p - F.one_hot(Y, 3)) @ weight).numpy()


def test_it_is_the_distance_of_the_loss_gradients() -> None:
    s, t = linear(), linear()
    want = np.linalg.norm(softmax_gradient(s) - softmax_gradient(t), axis=1)
    found = run(built(s, t, gradient_weight=0.5), X, Y)
    assert number(found["input_gradient"]) == pytest.approx(0.5 * want.mean(), rel=1e-5)
    kl = F.kl_div((s(X) / 4).log_softmax(1), (t(X) / 4).softmax(1), reduction="batchmean")
    assert number(found["soft"]) == pytest.approx(16 * number(kl), rel=1e-6)


def test_a_fraction_is_spread_over_the_batch_and_fakes_weigh_less() -> None:
    s, t = linear(), linear()
    rows = np.linalg.norm(softmax_gradient(s) - softmax_gradient(t), axis=1)
    half = run(built(s, t, iga_fraction=0.5), X, Y)["input_gradient"]
    assert number(half) == pytest.approx(rows[[0, 2, 4]].mean(), rel=1e-5)
    fake = torch.tensor([False, False, False, True, True, True])
    real = run(built(s, t, fake_weight=0.0), X, Y, fake)["input_gradient"]
    assert number(real) == pytest.approx(rows[:3].mean(), rel=1e-5)


def test_scalars_align_the_gradients_of_the_predictions() -> None:
    s, t = linear(1), linear(1)
    want = (s[1].weight - t[1].weight).norm()  # type: ignore[index]
    # Labels that are the teacher's answers would leave its loss without a gradient.
    found = run(built(s, t, classes=0), X, t(X).detach()[:, 0])
    assert number(found["input_gradient"]) == pytest.approx(number(want), rel=1e-5)
    assert number(found["soft"]) == pytest.approx(number((s(X) - t(X)).abs().mean()), rel=1e-9)


@pytest.mark.parametrize("classes", [3, 0])
@pytest.mark.parametrize("num", [1, 6])
def test_the_student_learns_and_neither_net_is_touched_otherwise(classes: int, num: int) -> None:
    s, t = conv(4, max(classes, 1)).train(), conv(6, max(classes, 1)).eval()
    s.body.body[1].eval()  # type: ignore[union-attr,index]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (s, t)]
    modes = [module.training for module in s.modules()]
    method, x = built(s, t, classes), X[:num].float()
    y = Y[:num] if classes else torch.rand(num)
    method.alignment(Outputs(s(x)), Outputs(t(x)), Batch({"plain": x}, y)).backward()
    grads = {name: p.grad for name, p in s.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for n, g in grads.items() if not n.endswith("bias"))
    assert any(g.abs().sum() > 0 for g in grads.values() if g is not None)
    assert all(p.grad is None for p in t.parameters())
    assert [module.training for module in s.modules()] == modes
    for net, was in zip((s, t), before, strict=True):
        assert all(torch.equal(value, was[key]) for key, value in net.state_dict().items())


def test_equal_nets_have_distance_zero_with_a_finite_gradient() -> None:
    t = conv(4).eval()
    found = run(built(t, t), X.float(), Y)
    assert number(found["input_gradient"]) == 0
    found["input_gradient"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in t.parameters())


def test_one_images_gradient_does_not_depend_on_the_others() -> None:
    net = conv(4).train()
    whole = image_gradient(net, X.float(), Y, keep_graph=False)
    alone = image_gradient(net, X[2:3].float(), Y[2:3], keep_graph=False)
    torch.testing.assert_close(whole[2:3], alone)


def test_outputs_on_a_graph_do_without_the_nets() -> None:
    s, t, x = linear(), linear(), X.clone().requires_grad_()
    rows = np.linalg.norm(softmax_gradient(s) - softmax_gradient(t), axis=1)
    given, batch = (Outputs(s(x)), Outputs(t(x))), Batch({"plain": x}, Y)
    found = InputGradient(iga_fraction=0.5).losses(*given, batch)["input_gradient"]
    assert number(found) == pytest.approx(rows[[0, 2, 4]].mean(), rel=1e-5)
    found.backward()
    assert s[1].weight.grad is not None and t[1].weight.grad is None  # type: ignore[index]
    with pytest.raises(ValueError, match="kdiga differentiates both nets: call build with the nets, or give outputs"):
        InputGradient().losses(Outputs(s(X)), Outputs(t(X)), Batch({"plain": X}, Y))


def test_the_teachers_gradient_is_that_of_the_run_given() -> None:
    s, t, x = linear(), linear(), X.clone().requires_grad_()
    method = built(s, linear())  # Another teacher than the one whose outputs are given.
    found = method.losses(Outputs(s(x)), Outputs(t(x)), Batch({"plain": x}, Y))["input_gradient"]
    want = np.linalg.norm(softmax_gradient(s) - softmax_gradient(t), axis=1).mean()
    assert number(found) == pytest.approx(want, rel=1e-5)


def test_bad_options_and_missing_nets_are_named() -> None:
    with pytest.raises(ValueError, match="kdiga.iga_fraction must be 1 or below, but is 2.0"):
        InputGradient(iga_fraction=2.0)
    with pytest.raises(ValueError, match="kdiga differentiates both nets"):
        built(None, linear())
