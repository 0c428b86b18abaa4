"""What every feature loss keeps: finite gradients to the student alone, small and constant batches, its own shapes."""

from __future__ import annotations

import copy

import pytest
import torch

from cgankd.distill.base import Distiller, TaskNotSupported, describe
from cgankd.distill.losses import (
    attention,
    boundaries,
    congruence,
    contrast,
    explain,
    flow,
    hints,
    information,
    regression,
    relations,
    review,
    selectivity,
    selfsupervision,
    simkd,
    singular,
    virtual_attention,
)
from tests.distill import feature_toys as toys

FAMILIES = (
    attention, boundaries, congruence, contrast, explain, flow, hints, information, regression, relations, review,
    selectivity, selfsupervision, simkd, singular, virtual_attention,
)  # fmt: skip
METHODS: dict[str, type[Distiller]] = {k: v for family in FAMILIES for k, v in family.METHODS.items()}
ON_CLASSES = sorted(set(METHODS) - {"reg_kd"})
ON_SCALARS = sorted(name for name, method in METHODS.items() if method.scalar)
CASES = [(name, 3) for name in ON_CLASSES] + [(name, 0) for name in ON_SCALARS]
# What a loss is where both nets agree, if not zero: an own variance, own random embeddings or projections.
NOT_ZERO = {
    "vid",
    "crd",
    "fitnet",
    "ft",
    "ofd",
    "reviewkd",
    "simkd",
    "soap_kd",
    "kdexplainer",
    "sskd",
    "vam",
    "ifm",
    "cc",
}
EARLY = {"ab": "boundaries", "fsp": "flow"}
"""Losses that do their work on the student in a phase of their own."""


def pair(name: str, classes: int, **options: object) -> tuple[Distiller, torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    student = toys.net("convnet", 4, max(1, classes))
    # CAT-KD reads class maps off a last layer on the last map.
    teacher = toys.net("convnet" if name == "cat_kd" else "plain-vgg", 8, max(1, classes))
    if name == "crd":
        options = {"num_negatives": 4, **options}
    method = METHODS[name](**options)
    return toys.built(method, student, teacher, toys.data(classes)), student, teacher


def view_of(method: Distiller) -> str:
    return next(iter(method.needs.views))


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_finite_gradients_reach_the_student_and_never_the_teacher(name: str, classes: int) -> None:
    method, student, teacher = pair(name, classes)
    view = view_of(method)
    before = copy.deepcopy(teacher.eval().state_dict())
    b = toys.batch(classes=classes, view=view)
    if name in EARLY:
        terms = method.phase_losses(EARLY[name], toys.shown(student, b, view), toys.frozen(teacher, b, view), b)
    else:
        terms = method.losses(toys.shown(student, b, view), toys.shown(teacher.eval(), b, view), b)
    toys.total(terms).backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients and all(bool(g.isfinite().all()) for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(t.dtype == torch.float32 and t.ndim == 0 for t in terms.values())


@pytest.mark.parametrize(("name", "classes"), CASES)
@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("same", [False, True])
def test_small_and_constant_batches_stay_finite(name: str, classes: int, num: int, same: bool) -> None:
    method, student, teacher = pair(name, classes)
    view = view_of(method)
    b = toys.batch(num, classes=classes, view=view)
    s, t = toys.shown(student.eval(), b, view), toys.frozen(teacher, b, view)
    if same:
        s, t = toys.constant(s), toys.constant(t)
    terms = [method.losses(s, t, b)]
    for phase in method.phases()[:-1]:
        terms.append(method.phase_losses(phase.name, s, t, b))
    loss = torch.stack([toys.total(x) for x in terms]).sum()
    assert bool(loss.isfinite())
    loss.backward()
    moved = [p.grad for p in [*student.parameters(), *method.parameters()] if p.grad is not None]
    assert moved and all(bool(g.isfinite().all()) for g in moved)


@pytest.mark.parametrize(("name", "classes"), [c for c in CASES if c[0] not in NOT_ZERO | {"reg_kd"}])
def test_a_net_is_at_no_distance_from_itself(name: str, classes: int) -> None:
    method, student, _ = pair(name, classes)
    method = toys.built(METHODS[name](), student, student, toys.data(classes))
    b = toys.batch(classes=classes)
    out = toys.frozen(student, b)
    assert float(toys.total(method.losses(out, out, b)).detach().abs()) < 1e-4


@pytest.mark.parametrize("name", ["sp", "rkd", "pkt", "at", "ab", "reg_kd", "nst"])
def test_a_loss_without_modules_works_without_build(name: str) -> None:
    method = METHODS[name]()
    b = toys.batch(classes=0)
    s, t = toys.frozen(toys.net(num_outputs=1), b), toys.frozen(toys.net("plain-vgg", 8, 1), b)
    assert bool(toys.total(method.losses(s, t, b)).isfinite())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_says_what_it_is(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.source and method.flows
    assert set(describe(method)[0]) >= {"source", "target", "transform", "distance", "weight", "phase"}
    phases = {p.name for p in method().phases()}
    assert {f.phase for f in method.flows} <= phases
    first = (method.__doc__ or "").lower()
    assert method.status == "published" or method.status in first


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(ON_SCALARS)))
def test_losses_on_class_logits_refuse_scalars(name: str) -> None:
    with pytest.raises(TaskNotSupported, match=name):
        toys.built(METHODS[name](), toys.net(num_outputs=1), toys.net("plain-vgg", 8, 1), toys.data(0))


def test_reg_kd_refuses_classes() -> None:
    with pytest.raises(TaskNotSupported, match="cannot distil classes"):
        toys.built(METHODS["reg_kd"](), toys.net(), toys.net("plain-vgg", 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("at", {"attention_weight": -1.0}),
        ("at", {"form": "paper2"}),
        ("cat_kd", {"map_size": 0}),
        ("sp", {"relational_scope": "real"}),
        ("pkt", {"probability_weight": -1.0}),
        ("rkd", {"max_angle_rows": 2}),
        ("fitnet", {"hint_weight": -1.0}),
        ("vid", {"initial_variance": 0.0}),
        ("ft", {"code_share": 0.0}),
        ("ft", {"factor": "cosine"}),
        ("ab", {"margin": -1.0}),
        ("ofd", {"overhaul_weight": -0.1}),
        ("crd", {"temperature": 0.0}),
        ("crd", {"storage": "disk"}),
        ("sskd", {"keep_wrong": 1.5}),
        ("reviewkd", {"max_channels": 0}),
        ("simkd", {"bottleneck": 0}),
        ("ifm", {"early_decay": 2.0}),
        ("vam", {"num_blocks": 0}),
        ("kdexplainer", {"levels": ()}),
        ("reg_kd", {"mode": "hard"}),
        ("soap_kd", {"feature_weight": -1.0}),
        ("cc", {"embed_dim": 0}),
        ("cc", {"form": "program"}),
        ("cc", {"gamma": 0.0}),
        ("nst", {"degree": 0}),
        ("nst", {"selectivity_weight": -1.0}),
        ("fsp", {"training": "last"}),
        ("fsp", {"flow_share": 0.0}),
        ("kdsvd", {"num_vectors": 0}),
        ("kdsvd", {"gap_floor": 0.0}),
        ("kdsvd", {"bandwidth": 0.0}),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.{next(iter(options))}.*must"):
        METHODS[name](**options)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_phase_parameters_are_own_and_split_between_phases(name: str) -> None:
    method, student, _ = pair(name, 0 if name == "reg_kd" else 3)
    own = {id(p) for p in method.parameters()}
    for phase in method.phases():
        assert {id(p) for p in method.phase_parameters(phase.name)} <= own
    assert not own & {id(p) for p in student.parameters() if name != "vam"}
    names = {n for n, _ in method.named_parameters()}
    assert method.no_decay() <= names


@pytest.mark.parametrize("name", ["simkd", "vam", "kdexplainer"])
def test_a_net_of_its_own_exports_for_any_batch_size(name: str) -> None:
    method, _, _ = pair(name, 3)
    shipped = method.student_for_inference().eval()
    x = torch.rand(2, *toys.SHAPE)
    program = torch.export.export(shipped, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    more = torch.rand(5, *toys.SHAPE)
    assert torch.allclose(program(more), shipped(more), atol=1e-5)
