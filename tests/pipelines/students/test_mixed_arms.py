"""Arms whose images are mixed, live or as stored views: same bytes whatever ran before or was killed; one teacher pass a view."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cgankd.config import ArmConfig
from cgankd.data.pixels import to_unit
from cgankd.data.store.datasets import read_info
from cgankd.data.views import make_views
from cgankd.labels.task import make_task
from pipelines.files.artifacts import ResumeFile
from pipelines.networks.predictor import load_predictor
from pipelines.students import stored_views
from pipelines.students.run_arm import Job, train_job
from tests.distill.arms import job, settings, workplace

VIEWS = 20


def run(place: Path, name: str, arm: ArmConfig, *, seed: int = 0, scalar: bool = False, **student: Any) -> Job:
    """A run whose files lie as those of the stage: artifacts/resume/student, views and teacher."""
    made = job(place, settings(scalar, teacher_view="augmented", **student), name, bank=arm.bank, kd=arm.kd)
    out = place / "resume" / "student" / f"{name}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(made, arm=arm, seed=seed, out=out)


def weights(made: Job) -> dict[str, torch.Tensor]:
    train_job(made)
    return load_file(made.out)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def files(place: Path, kind: str) -> list[Path]:
    return sorted((place / "resume" / kind).glob("*.safetensors"))


ARMS = [
    ArmConfig(mix="mixup"),
    ArmConfig(mix="cutmix", kd=True),
    ArmConfig(mix="mixup", kd=True, views=VIEWS),
    ArmConfig(views=VIEWS, kd=True),
    ArmConfig(bank=True, mix="mixup", mix_pairs="real", kd=True),
    ArmConfig(bank=True, mix="cutmix", mix_pairs="across", views=VIEWS, kd=True),
]


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_every_kind_of_arm_trains_and_is_not_the_plain_one(tmp_path: Path, arm: ArmConfig, scalar: bool) -> None:
    place = workplace(tmp_path, scalar)
    plain = weights(run(place, "plain", ArmConfig(bank=arm.bank, kd=arm.kd), scalar=scalar))
    mixed = weights(run(place, "mixed", arm, scalar=scalar))
    assert not equal(plain, mixed)
    # Other runs beside and before it, and files that are there already, change no bit.
    assert equal(mixed, weights(run(place, "again", arm, scalar=scalar)))


def test_the_section_mixes_all_arms_and_an_arm_may_differ(tmp_path: Path) -> None:
    place = workplace(tmp_path, False)
    own = weights(run(place, "own", ArmConfig(mix="mixup")))
    assert equal(own, weights(run(place, "section", ArmConfig(), mix="mixup")))
    plain = weights(run(place, "plain", ArmConfig()))
    assert equal(plain, weights(run(place, "none", ArmConfig(mix="none"), mix="mixup")))


def test_views_are_made_once_and_the_teacher_sees_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, made = workplace(tmp_path, False), list[int]()

    def counted(*args: Any) -> dict[str, torch.Tensor]:
        made.append(1)
        return make_views(*args)

    monkeypatch.setattr(stored_views, "make_views", counted)
    shown = ArmConfig(mix="mixup", views=VIEWS)
    for number, (arm, seed) in enumerate(
        [(shown, 0), (dataclasses.replace(shown, kd=True), 0), (dataclasses.replace(shown, kd=True), 1)]
    ):
        train_job(run(place, f"r{number}", arm, seed=seed))
    assert len(made) == len(files(place, "views")) == 1
    tables = [load_file(path) for path in files(place, "teacher")]
    assert sorted(len(table["outputs"]) for table in tables) == [VIEWS, VIEWS], "views, and as many clean images"
    views = load_file(files(place, "views")[0])
    (table,) = (table for table in tables if table["outputs"].dtype == torch.float16)
    assert len(views["images"]) == VIEWS and table["outputs"].dtype == torch.float16
    info = read_info(place / "dataset.h5")
    teacher, _ = load_predictor(place / "teacher.safetensors", info, make_task(info, settings(False)))
    with torch.no_grad():
        expected = teacher(to_unit(views["images"]))
    torch.testing.assert_close(table["outputs"].float(), expected, atol=2e-3, rtol=1e-3)
    for number, other in enumerate(
        (
            dataclasses.replace(shown, views=VIEWS + 1),
            dataclasses.replace(shown, mix="cutmix"),
            dataclasses.replace(shown, bank=True),
        )
    ):
        train_job(run(place, f"o{number}", other))
        assert len(files(place, "views")) == 2 + number, "views of their own"


def test_damaged_views_are_made_again(tmp_path: Path) -> None:
    place, arm = workplace(tmp_path, False), ArmConfig(mix="mixup", views=VIEWS, kd=True)
    first = weights(run(place, "first", arm))
    whole = files(place, "views")[0].read_bytes()
    files(place, "views")[0].write_bytes(whole[:100])
    for path in files(place, "teacher"):
        path.write_bytes(b"")
    assert equal(first, weights(run(place, "second", arm)))
    assert files(place, "views")[0].read_bytes() == whole


@pytest.mark.parametrize("views", [None, VIEWS])
def test_a_killed_run_ends_on_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int | None
) -> None:
    place, arm = workplace(tmp_path, False), ArmConfig(bank=True, mix="mixup", kd=True, views=views)
    straight = weights(run(place, "straight", arm, num_steps=210))
    save = ResumeFile.save

    def killed(self: ResumeFile, step: int, state: dict[str, object]) -> None:
        save(self, step, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumeFile, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_job(run(place, "killed", arm, num_steps=210))
    assert not (place / "resume" / "student" / "killed.safetensors").exists()
    assert equal(straight, weights(run(place, "killed", arm, num_steps=210)))


def test_a_batch_may_be_all_views(tmp_path: Path) -> None:
    place, arm = workplace(tmp_path, False), ArmConfig(mix="mixup", views=VIEWS, kd=True)
    half = weights(run(place, "half", arm))
    assert not equal(half, weights(run(place, "all", arm, views_share=1.0)))
    assert len(files(place, "views")) == 1, "the same views"


def test_a_loss_on_features_runs_the_teacher_on_the_stored_view(tmp_path: Path) -> None:
    place, arm = workplace(tmp_path, False), ArmConfig(mix="mixup", views=VIEWS, kd=True)
    weights(run(place, "features", arm, distiller="at"))
    assert files(place, "teacher") == []
