"""What holds for every KD loss, and the errors of asking for one wrongly."""

from __future__ import annotations

import math

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.distill import make_distiller
from cgankd.distill.base import Distiller, TaskNotSupported, describe
from cgankd.distill.methods import METHODS
from tests.distill.toys import Pair, outputs_of, pair, with_pred

KINDS = [(name, scalar) for name in METHODS for scalar in (False, True) if METHODS[name]().accepts(0 if scalar else 3)]


def ready(name: str, scalar: bool) -> tuple[Distiller, Pair]:
    """A method with its defaults, built on the toy pair."""
    both, distiller = pair(scalar), make_distiller(name)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    return distiller, both


def terms(distiller: Distiller, both: Pair, num: int = 6, constant: bool = False) -> dict[str, torch.Tensor]:
    batch, x = both.batch(distiller, num, constant)
    torch.manual_seed(5)
    distiller.on_step(0, 3)
    with torch.set_grad_enabled(distiller.needs.input_grad):
        teacher = distiller.run_teacher(
            lambda images: outputs_of(both.teacher, images, distiller),
            x,
            batch.is_fake.repeat(len(x) // num),  # type: ignore[union-attr]
            "train",
        )
    return distiller.losses(outputs_of(both.student, x, distiller), teacher, batch, epoch=1.0)


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_gradients_reach_the_student_alone_and_are_finite(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    assert both.teacher.net is not None and both.student.net is not None
    before = {key: value.clone() for key, value in both.teacher.net.state_dict().items()}
    found = terms(distiller, both)
    assert found and all(value.ndim == 0 and value.requires_grad for value in found.values())
    sum(found.values()).backward()  # type: ignore[union-attr]
    grads = [p.grad for p in both.student.net.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    # A method may do all its work on the student in a phase of its own, as ab does.
    assert any(grad.any() for grad in grads) or any(phase.uses_student for phase in distiller.phases())
    assert all(p.grad is None and not p.requires_grad for p in both.teacher.net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in both.teacher.net.state_dict().items())


@pytest.mark.parametrize(("name", "scalar"), KINDS)
@pytest.mark.parametrize(("num", "constant"), [(1, False), (2, False), (4, True)])
def test_small_and_constant_batches_stay_finite(name: str, scalar: bool, num: int, constant: bool) -> None:
    distiller, both = ready(name, scalar)
    distiller.train(num > 1)  # Batch norms of connectors have no statistics of one image.
    found = terms(distiller, both, num, constant)
    assert all(math.isfinite(value.item()) for value in found.values()), found
    total = sum(found.values())
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    assert both.student.net is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in both.student.net.parameters())


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_every_trainable_tensor_moves_in_some_phase(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    owned = {id(p) for phase in distiller.phases() for p in distiller.phase_parameters(phase.name)}
    missing = [key for key, p in distiller.named_parameters() if p.requires_grad and id(p) not in owned]
    assert missing == []
    assert distiller.phases()[-1].share == 0 and all(p.share > 0 for p in distiller.phases()[:-1])
    names = {key for key, _ in distiller.named_parameters()}
    assert distiller.no_decay() <= names
    assert both.teacher.net is not None and both.student.net is not None
    nets = {id(p) for spec in (both.teacher, both.student) for p in spec.net.parameters()}  # type: ignore[union-attr]
    assert not nets & {id(p) for p in distiller.parameters()}, "nets are not the distiller's to own"


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_a_student_that_says_what_the_teacher_says_is_better_than_a_mixed_up_one(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    if list(distiller.parameters()) or distiller.needs.input_grad or distiller.needs.views != {"plain"}:
        pytest.skip("its minimum depends on its own modules or on gradients; its own tests hold it")
    batch, x = both.batch(distiller)
    noise = torch.randn(6, both.teacher.num_outputs, generator=torch.Generator().manual_seed(7))
    knows = batch.y[:, None] if scalar else 3.0 * torch.eye(3)[batch.y]
    teacher = with_pred(outputs_of(both.teacher, x, distiller), knows + (0.01 if scalar else 0.3) * noise)

    def total(rows: torch.Tensor) -> float:
        torch.manual_seed(6)
        parts = (teacher.stages, teacher.preacts)
        stages, preacts = (tuple(p[rows].clone().requires_grad_(True) for p in part) for part in parts)
        pooled = None if teacher.pooled is None else teacher.pooled[rows].clone().requires_grad_(True)
        mine = type(teacher)(teacher.pred[rows].clone().requires_grad_(True), pooled, stages, preacts, teacher.head)
        return sum(v.item() for v in distiller.losses(mine, teacher, batch).values())

    same = total(torch.arange(6))
    assert math.isfinite(same) and same <= total(torch.tensor([1, 2, 0, 4, 5, 3])) + 1e-6


@pytest.mark.parametrize("name", [n for n, scalar in KINDS if not scalar and "fake_weight" in METHODS[n].options()])
def test_fakes_of_no_weight_say_nothing(name: str) -> None:
    both, distiller = pair(False), make_distiller(name, fake_weight=0.0)
    if distiller.needs.views != {"plain"} or not distiller.needs.teacher_pred_only or wants_more(distiller):
        pytest.skip("its terms are not of single samples alone")
    distiller.build(both.student, both.teacher, both.data)
    batch, x = both.batch(distiller)
    student, teacher = outputs_of(both.student, x, distiller), outputs_of(both.teacher, x, distiller)
    assert batch.is_fake is not None
    other = torch.where(batch.is_fake[:, None], student.pred + 1.0 + torch.arange(3), student.pred)
    left = distiller.losses(student, teacher, batch)
    right = distiller.losses(type(student)(other), teacher, batch)
    for key in left:
        torch.testing.assert_close(left[key], right[key])


def wants_more(distiller: Distiller) -> bool:
    needs = distiller.needs
    return needs.pooled or needs.stages or needs.preacts or "relational_scope" in type(distiller).options()


@pytest.mark.parametrize(
    ("name", "scalar"), [(n, s) for n in METHODS for s in (False, True) if (n, s) not in KINDS] or [("kd", None)]
)
def test_labels_that_a_method_cannot_distil_are_refused(name: str, scalar: bool | None) -> None:
    if scalar is None:
        pytest.skip("every method here distils both kinds")
    both = pair(scalar)
    with pytest.raises(TaskNotSupported, match="scalar"):
        make_distiller(name).build(both.student, both.teacher, both.data)


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_what_they_are(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.source and (method.__doc__ or "").strip()
    assert method.flows and all(row["source"] and row["target"] for row in describe(method))


def test_errors_name_the_nearest_method_and_option() -> None:
    with pytest.raises(ConfigError, match=r"distiller must be one of .*, but is 'takf'; did you mean 'takd'\?"):
        make_distiller("takf")
    with pytest.raises(
        ConfigError, match=r"options of kd\.temprature is not an option of kd; did you mean 'temperature'\?"
    ):
        make_distiller("kd", temprature=3)
    with pytest.raises(ConfigError, match=r"options of kd\.temperature must be a number, but is 'warm'"):
        make_distiller("kd", temperature="warm")
    with pytest.raises(ConfigError, match=r"options of kd\.temperature must be"):
        make_distiller("kd", temperature=-1.0)
    with pytest.raises(ConfigError, match=r"mode must be one of frozen, batch, adapt, reset_then_adapt, but is 'warm'"):
        make_distiller("teacher_adaptation", mode="warm")
    with pytest.raises(ConfigError, match=r"replace must be true or false, but is 1"):
        make_distiller("skd_speculative", replace=1)


def test_whole_numbers_stand_for_floats() -> None:
    assert make_distiller("kd", temperature=2).temperature == 2.0
