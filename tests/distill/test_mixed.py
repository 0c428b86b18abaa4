"""Which KD losses take mixtures: those that say so never look at a class, those that refuse really need it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cgankd.config import ConfigError, config_from_dict
from cgankd.config.mix import MixConfig
from cgankd.data.mix import Mixing
from cgankd.distill import make_distiller
from cgankd.distill.base import Distiller, TaskNotSupported
from cgankd.distill.composite import CompositeDistiller
from cgankd.distill.engine import early_phases
from cgankd.distill.methods import METHODS
from cgankd.distill.mixed import Shown
from cgankd.fit.device import Forward
from pipelines.files.distillers import check_distillers
from tests.conftest import preset
from tests.distill.test_generic import KINDS, built, engine, rows
from tests.distill.toys import outputs_of

CLASSES = [name for name, scalar in KINDS if not scalar]
TAKEN = [name for name in CLASSES if Shown(3, mixed=True).takes(METHODS[name]())]


def test_the_usual_losses_take_mixtures() -> None:
    assert {"kd", "wttm", "dist", "rkd", "at", "fitnet", "simkd", "reviewkd"} <= set(TAKEN)
    assert not {"dkd", "nkd", "crd", "mlkd", "uda", "sskd", "takd"} & set(TAKEN)


def terms(name: str, turned: int) -> dict[str, float]:
    """All terms of a method, of early phases too, where each image has a class so many further on."""
    options = {"sskd": {"keep_wrong": 0.0}}.get(name, {})
    distiller, both = built(name, False, **options)
    batch, x = both.batch(distiller)
    batch = replace(batch, y=(batch.y + turned) % 3)
    student, teacher = (outputs_of(spec, x, distiller) for spec in (both.student, both.teacher))
    torch.manual_seed(1)
    found = [distiller.phase_losses(p.name, student, teacher, batch) for p in distiller.phases()[:-1]]
    found.append(distiller.losses(student, teacher, batch))
    return {f"{i}.{key}": term.item() for i, part in enumerate(found) for key, term in part.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_what_takes_mixtures_never_looks_at_a_class(name: str) -> None:
    distiller, _ = built(name, False)
    refused = Shown(3, mixed=True).refusal(distiller) is not None
    assert refused or terms(name, 0) == terms(name, 1) == terms(name, 2)
    if distiller.needs.label:
        assert terms(name, 0) != terms(name, 1) or terms(name, 0) != terms(name, 2), (
            "it does look, so that it must refuse"
        )
    else:
        assert not refused or distiller.needs.index or distiller.needs.views != {"plain"}


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_losses_that_take_mixtures_train_on_them(name: str, scalar: bool) -> None:
    distiller, both = built(name, scalar)
    if Shown(0 if scalar else 3, mixed=True).refusal(distiller) is not None:
        return
    made, _ = engine(distiller, both)
    unit, batch = rows(scalar)
    mixing = Mixing(MixConfig(mix="mixup"), "any", made.task.mixed_labels, 0)
    unit, batch = mixing(unit, batch, 0)
    assert both.student.net is not None
    for phase in early_phases(made, both.student.net):
        assert bool(torch.isfinite(phase.objective(Forward(phase.net, "fp32"), unit, batch, 0)["loss"]))
    parts = made(Forward(both.student.net, "fp32"), unit, batch, 0)
    assert bool(torch.isfinite(parts["loss"])) and parts["loss"].requires_grad


def test_a_refusal_names_the_loss_the_reason_and_those_that_can() -> None:
    with pytest.raises(TaskNotSupported, match=r"dkd compares with the class of each image.*those that can: .*\bkd\b"):
        Shown(3, mixed=True).check(make_distiller("dkd"))
    with pytest.raises(TaskNotSupported, match="crd keeps features by the row of an image, and a mixture is of two"):
        Shown(0, mixed=True).check(make_distiller("crd"))
    with pytest.raises(TaskNotSupported, match="crd .* stored views of one row differ"):
        Shown(3, stored=True).check(make_distiller("crd"))
    with pytest.raises(TaskNotSupported, match="uda compares several views"):
        Shown(0, mixed=True).check(make_distiller("uda"))
    chooser = make_distiller("skd_speculative", level="image")
    with pytest.raises(TaskNotSupported, match="skd_speculative chooses the fakes of each batch"):
        Shown(3, stored=True).check(chooser)
    assert (
        Shown(3, mixed=True).refusal(chooser) is None and Shown(3, stored=True).refusal(make_distiller("dkd")) is None
    )
    inside: list[Distiller] = [
        CompositeDistiller([(1.0, make_distiller("kd")), (1.0, make_distiller("nkd"))]),
        make_distiller("skd_speculative", method="nkd"),
    ]
    for distiller in inside:
        assert str(Shown(3, mixed=True).refusal(distiller)).startswith("nkd compares")
    atkd, both = built("atkd", False)
    assert Shown(3, mixed=True).refusal(atkd) is not None, "what it asks for once built counts too"


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (
            {"distiller": "dkd", "arms": {"real": {}, "m_kd": {"kd": True, "mix": "mixup"}}},
            r"student\.distiller: dkd .* set student\.arms\.m_kd\.mix to none",
        ),
        ({"distiller": "crd", "views": 100}, r"student\.distiller: crd .*student\.arms\.real_kd\.views to 0"),
        (
            {"arms": {"real": {}, "m_kd": {"kd": True, "mix": "cutmix", "distiller": "nkd"}}},
            r"student\.arms\.m_kd\.distiller: nkd",
        ),
    ],
)
def test_params_with_a_loss_that_refuses_are_refused_at_once(student: dict[str, object], words: str) -> None:
    values = preset("digits")
    values["student"] |= student
    with pytest.raises(ConfigError, match=words):
        check_distillers(config_from_dict(values))
    values["student"] |= {"distiller": "dist"}
    if "m_kd" not in str(student) or "nkd" not in str(student):
        check_distillers(config_from_dict(values))
