"""Training on as int8 will compute: it learns, it leaves the student alone, and a seed decides it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cgankd.fit.fake_int8 import FakeInt8
from cgankd.labels.task import ClassTask
from cgankd.types import Split
from pipelines.device.forms import Source
from pipelines.device.recover import Lessons, recovered
from pipelines.files.params import load_config
from tests.conftest import ROOT
from tests.pipelines.device.samples import CLASSES, images_of, source_of


@pytest.fixture
def lessons() -> Lessons:
    """A teacher that knows the brightness of the first channel, on 60 real images and 30 fakes."""
    images = images_of(CLASSES, 90)
    bright = images.float().mean(dim=(2, 3))[:, 0].contiguous()
    labels = torch.bucketize(bright, bright.quantile(torch.tensor([1 / 3, 2 / 3])))
    teacher = 4 * torch.nn.functional.one_hot(labels, 3).float()
    return Lessons(Split(images[:60], labels[:60]), Split(images[60:], labels[60:]), teacher, ClassTask(CLASSES))


def settings() -> object:
    student = load_config(ROOT / "pipelines/presets/digits.yaml").student
    return replace(student, batch_size=32, learning_rate=0.05, augment="none")


def loss(source: Source, lessons: Lessons) -> float:
    fake = FakeInt8(source.model.net).eval()
    with torch.no_grad():
        out = fake(lessons.real.images[:].float() / 255)
    return float(lessons.task.loss(out, lessons.real.labels))


def test_it_learns_as_int8_and_leaves_the_student_alone(lessons: Lessons) -> None:
    source = source_of(CLASSES)
    before = {name: value.clone() for name, value in source.model.state_dict().items()}
    found = recovered(source, lessons, settings(), seed=5, steps=40)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in source.model.state_dict().items())
    assert loss(found[0], lessons) < 0.9 * loss(source, lessons)
    assert loss(found[0], lessons) < loss(found[1], lessons), "a tenth of the rate goes a shorter way"
    assert found[0].weights == source.weights and not any(p.requires_grad for p in found[0].model.parameters())


def test_a_seed_decides_it(lessons: Lessons) -> None:
    def state(seed: int) -> torch.Tensor:
        (first, _) = recovered(source_of(CLASSES), lessons, settings(), seed=seed, steps=6)  # type: ignore[arg-type]
        return torch.cat([p.flatten() for p in first.model.parameters()])

    assert torch.equal(state(5), state(5)) and not torch.equal(state(5), state(6))
