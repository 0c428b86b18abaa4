"""Speculative choices against M2's filter and exact rules; adapted statistics against torch's own batch norm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cgankd.bank.m2_filter import cutoff, keep
from cgankd.config import ConfigError
from cgankd.config.distill import DistillerConfig
from cgankd.distill import Batch, Outputs, make_distiller
from cgankd.distill.engine import Negatives
from cgankd.distill.losses.adaptation import TeacherAdaptation
from cgankd.distill.losses.speculative import Proposal, SpeculativeKD, speculate
from cgankd.distill.methods import distiller_of
from cgankd.distill.rows import hard_labels
from cgankd.rng import generator
from tests.distill.toys import pair


def errors(name: str, num: int = 400) -> torch.Tensor:
    return torch.rand(num, generator=generator(name))


def choose(
    share: float, replace: bool, temperature: float, accepted: torch.Tensor, group: torch.Tensor, seed: int = 0
) -> torch.Tensor:
    return speculate(
        errors("student"),
        errors("teacher"),
        accepted,
        group,
        Proposal(share, temperature, 0.01, replace),
        generator("choice", seed),
    ).rows


def test_replacements_are_rows_the_teacher_takes() -> None:
    accepted, group = errors("teacher") < 0.3, torch.arange(400) % 4
    rows = choose(0.25, True, 1.0, accepted, group)
    assert accepted[rows].all() and len(rows) == 100 and len(rows.unique()) == 100
    few = torch.arange(400) < 20
    rows = choose(0.25, True, 1.0, few, group)
    assert set(rows.tolist()) <= set(range(20))


def test_coverage_is_the_share_of_groups_with_rows() -> None:
    group = torch.arange(40) % 4
    found = speculate(
        torch.zeros(40),
        torch.zeros(40),
        group < 3,
        group,
        Proposal(0.5, 1.0, 1.0, True),
        generator("coverage"),
    )
    assert (found.coverage, found.acceptance, found.correction) == (0.75, 0.75, 0)


def test_an_empty_choice_keeps_the_one_before_and_is_an_error_without_one() -> None:
    both, made = pair(False), make_distiller("skd_speculative", level="image", top_k=1, pool_share=1.0)
    assert isinstance(made, SpeculativeKD)
    made.build(both.student, both.teacher, both.data)
    y, right = torch.arange(12) % 3, torch.eye(3)[torch.arange(12) % 3]
    with pytest.raises(ConfigError, match="accepts none of the 12 fakes .* raise the option top_k"):
        made.refresh(right, right.roll(1, 1), y, generator("none"))
    half = torch.where(torch.arange(12)[:, None] < 6, right, right.roll(1, 1))
    assert made.refresh(right, half, y, generator("half")).rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(made.refresh(right, right.roll(1, 1), y, generator("none again")).rows) == 0
    assert set(made.redirect(torch.arange(12)).tolist()) == {0, 1, 2, 3, 4, 5}


def test_filtering_is_the_case_of_proposing_all_and_replacing_none() -> None:
    group, teacher = torch.arange(400) % 4, errors("teacher")
    limits = cutoff(teacher, group, 4, 0.7)
    kept = keep(teacher, group, limits)
    rows = choose(1.0, False, math.inf, kept, group)
    assert torch.equal(rows, kept.nonzero()[:, 0])
    uniform = choose(0.5, False, math.inf, kept, group)
    assert kept[uniform].all() and len(uniform) == pytest.approx(0.5 * len(rows), rel=0.2)


def test_refused_slots_go_to_the_teachers_best_of_the_rest() -> None:
    group, accepted = torch.zeros(400, dtype=torch.long), torch.arange(400) % 2 == 0
    found = speculate(
        errors("student"),
        errors("teacher"),
        accepted,
        group,
        Proposal(0.25, math.inf, 1e-4, True),
        generator("slots"),
    )
    assert len(found.rows) == 100 == len(set(found.rows.tolist()))
    assert found.acceptance == pytest.approx(0.5, abs=0.15) and found.correction == pytest.approx(1 - found.acceptance)


def test_a_cold_student_proposes_its_hardest_of_each_label() -> None:
    group = torch.arange(400) % 4
    rows = choose(0.25, False, 1e-6, torch.ones(400, dtype=torch.bool), group)
    for label in range(4):
        members = (group == label).nonzero()[:, 0]
        hardest = members[errors("student")[members].argsort(descending=True)[:25]]
        assert set(hardest.tolist()) == set(rows[group[rows] == label].tolist())


def test_an_empty_rest_leaves_slots_empty() -> None:
    rows = choose(1.0, True, 1.0, torch.zeros(400, dtype=torch.bool), torch.zeros(400, dtype=torch.long))
    assert len(rows) == 0


def test_proposed_labels_follow_the_teachers_top_k() -> None:
    torch.manual_seed(0)
    student = torch.randn(500, 10)
    teacher = torch.randn(500, 10)
    own = make_distiller("skd_speculative", level="label", top_k=10)
    only = make_distiller("skd_speculative", level="label", top_k=1)
    assert isinstance(own, SpeculativeKD) and isinstance(only, SpeculativeKD)
    torch.manual_seed(1)
    mine = torch.multinomial(student.softmax(1), 1)[:, 0]
    torch.manual_seed(1)
    assert torch.equal(own.propose(student, teacher), mine)
    torch.manual_seed(1)
    label = only.propose(student, teacher)
    best = teacher.argmax(1)
    assert torch.equal(label[mine == best], mine[mine == best])
    none = make_distiller("skd_speculative", top_k=0)
    assert isinstance(none, SpeculativeKD) and not none.verified(teacher, best).any()


def test_scalar_proposals_stay_where_the_teacher_is_near() -> None:
    method = make_distiller("skd_speculative", tolerance=0.1)
    assert isinstance(method, SpeculativeKD)
    label = method.propose(torch.tensor([[0.5], [0.9]]), torch.tensor([[0.55], [0.2]]))
    assert label.tolist() == pytest.approx([0.5, 0.2])


def test_real_images_propose_nothing() -> None:
    method = make_distiller("skd_speculative", level="label", hard_weight=1.0)
    pred = torch.randn(4, 3, requires_grad=True)
    batch = Batch({}, torch.tensor([0, 1, 2, 0]), is_fake=torch.zeros(4, dtype=torch.bool))
    assert method.losses(Outputs(pred), Outputs(pred.detach()), batch)["proposed"].item() == 0


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("rho", [0.7, 1.0])
def test_all_proposed_none_replaced_at_a_quantile_is_the_filter_of_cgan_kd(scalar: bool, rho: float) -> None:
    options = {"level": "image", "accept": "quantile", "rho": rho, "pool_share": 1.0, "replace": False}
    made, both, num = make_distiller("skd_speculative", **options), pair(scalar), 120
    assert isinstance(made, SpeculativeKD)
    both.data = replace(both.data, num_samples=num, labels=None, fake=torch.ones(num, dtype=torch.bool))
    made.build(both.student, both.teacher, both.data)
    y = torch.rand(num, generator=generator("y")) if scalar else torch.arange(num) % 3
    student, teacher = (torch.randn(num, 1 if scalar else 3, generator=generator(name)) for name in "st")
    group = torch.zeros(num, dtype=torch.long) if scalar else y
    error = hard_labels(teacher, y)
    kept = keep(error, group, cutoff(error, group, 1 if scalar else 3, rho))
    assert torch.equal(made.refresh(student, teacher, y, generator("g")).rows, kept.nonzero()[:, 0])
    assert int(kept.sum()) == num if rho == 1 else 0.7 * num <= int(kept.sum()) < 0.75 * num


def test_two_choosers_and_a_quantile_of_labels_are_refused() -> None:
    image, label = {"name": "skd_speculative"}, {"name": "skd_speculative", "options": {"level": "label"}}
    both = [DistillerConfig(**entry) for entry in (image, image)]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="skd_speculative and skd_speculative both choose the bank's rows"):
        distiller_of(both)
    assert not distiller_of([DistillerConfig(**entry) for entry in (image, label)]).task_on_fakes  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="method must not choose the bank's rows itself, but skd_speculative does"):
        make_distiller("skd_speculative", method="skd_speculative")
    with pytest.raises(ConfigError, match="accept must be top_k at level label"):
        make_distiller("skd_speculative", level="label", accept="quantile")
    with pytest.raises(ConfigError, match=r"rho must be in \(0, 1\], but is 0.0"):
        make_distiller("skd_speculative", rho=0.0)


def test_fakes_train_on_the_proposed_label_and_on_no_other() -> None:
    method = make_distiller("skd_speculative", level="label", hard_weight=0.5, top_k=0, teacher_temperature=1e-3)
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3), 9 * torch.eye(3)[[2, 1, 0, 2]]
    fake = torch.tensor([False, True, True, False])
    found = method.losses(Outputs(student), Outputs(teacher), Batch({}, torch.zeros(4).long(), is_fake=fake))
    miss = -student.log_softmax(1)[[1, 2], [1, 0]].sum() / 4
    assert found["proposed"].item() == pytest.approx(0.5 * miss.item(), rel=1e-5)
    assert not method.task_on_fakes and make_distiller("skd_speculative").task_on_fakes


@pytest.mark.parametrize("method", ["takd", "teacher_adaptation"])
@pytest.mark.parametrize("mode", ["batch", "adapt", "reset_then_adapt"])
def test_statistics_that_would_reach_nothing_are_refused(method: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"method must look at the teacher itself, but {method} puts other outputs"):
        make_distiller("teacher_adaptation", method=method, mode=mode)
    with pytest.raises(ConfigError, match="but skd_speculative puts other outputs"):
        make_distiller("teacher_adaptation", method="skd_speculative", options={"method": method}, mode=mode)


@pytest.mark.parametrize("wrapper", ["skd_speculative", "teacher_adaptation"])
def test_an_assistant_inside_a_wrapper_is_the_one_that_teaches(wrapper: str) -> None:
    options = {"mode": "frozen"} if wrapper == "teacher_adaptation" else {"level": "label"}
    made, both = make_distiller(wrapper, method="takd", **options), pair(False)
    made.build(both.student, both.teacher, both.data)
    x = torch.rand(4, 1, 16, 16, generator=generator("x"))
    shown = made.run_teacher(lambda images: Outputs(images.new_zeros(4, 3)), x, torch.arange(4) > 1, "train")
    assert torch.equal(shown.pred, made.inner.assistant(x))


class Normed(nn.Module):
    """One batch norm that shows what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.norm.running_mean = torch.tensor([0.3])

    def outputs(self, x: torch.Tensor) -> Outputs:
        y = self.norm(x)
        return Outputs(y.mean((2, 3)), y.mean((2, 3)), (y,), (y,), None)


def adapted(mode: str, rows: str = "fake", momentum: float = 0.1) -> tuple[TeacherAdaptation, Normed]:
    made, net = make_distiller("teacher_adaptation", mode=mode, rows=rows, momentum=momentum), Normed().eval()
    assert isinstance(made, TeacherAdaptation)
    both = pair(False)
    made.build(both.student, type(both.teacher)(1, 1, ((1, 4, 4),), net, None, (None,)), both.data)
    return made, net


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(6, 1, 4, 4, generator=generator("norm")), torch.arange(6) >= 3


def test_real_rows_see_the_teacher_as_trained_and_fakes_their_own_statistics() -> None:
    (made, net), (x, is_fake) = adapted("batch"), images()
    with torch.no_grad():
        found = made.run_teacher(net.outputs, x, is_fake, "train").stages[0]
        plain = net.outputs(x).stages[0]
    assert torch.equal(found[:3], plain[:3])
    own = nn.functional.batch_norm(x[3:], None, None, training=True)
    torch.testing.assert_close(found[3:], own)
    assert net.norm.running_mean is not None and net.norm.running_mean.item() == pytest.approx(0.3)


@pytest.mark.parametrize(("mode", "start"), [("adapt", (0.3, 1.0)), ("reset_then_adapt", (0.0, 1.0))])
def test_adapted_statistics_are_the_moving_average(mode: str, start: tuple[float, float]) -> None:
    (made, net), (x, is_fake) = adapted(mode, "all", 0.25), images()
    mean, var = start
    for _ in range(3):
        with torch.no_grad():
            found = made.run_teacher(net.outputs, x, is_fake, "train").stages[0]
        mean, var = 0.75 * mean + 0.25 * x.mean().item(), 0.75 * var + 0.25 * x.var().item()
        torch.testing.assert_close(found, (x - mean) / math.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    assert net.norm.running_mean is not None and net.norm.running_mean.item() == pytest.approx(0.3)
    assert net.norm.momentum == 0.1 and not net.norm.training


def test_one_fake_takes_the_statistics_as_they_are() -> None:
    (made, net), (x, _) = adapted("batch"), images()
    with torch.no_grad():
        found = made.run_teacher(net.outputs, x[:2], torch.tensor([False, True]), "train").stages[0]
    assert torch.equal(found, net.outputs(x[:2]).stages[0])


def test_a_teacher_without_batch_norms_is_named() -> None:
    made, both = make_distiller("teacher_adaptation"), pair(False)
    with pytest.raises(ValueError, match="needs a teacher with batch norms"):
        made.build(both.student, type(both.teacher)(3, 1, (), nn.Flatten(), None, ()), both.data)


def test_negatives_are_of_other_classes_and_cover_them() -> None:
    label = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1])
    drawn = Negatives(label).draw(torch.arange(8), 500, generator("negatives"))
    assert (label[drawn] != label[:, None]).all()
    for row in range(8):
        counts = torch.bincount(drawn[row], minlength=8)[label != label[row]]
        assert counts.min() > 500 / len(counts) * 0.6
    others = Negatives(torch.arange(5)).draw(torch.arange(5), 200, generator("others"))
    assert all(set(others[i].tolist()) == set(range(5)) - {i} for i in range(5))
    alone = Negatives(torch.zeros(4, dtype=torch.long)).draw(torch.arange(4), 9, generator("alone"))
    assert alone.shape == (4, 9) and int(alone.max()) < 4
