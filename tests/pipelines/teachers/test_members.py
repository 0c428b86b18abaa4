"""A teacher of several members through the real stage: equal bits, kept trainings, resume, weights, and who loads it."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cgankd.config import ConfigError, config_from_dict
from cgankd.data.store.datasets import read_info, read_split, write_dataset
from cgankd.distill.methods import METHODS
from cgankd.fit.device import PLAIN
from cgankd.fit.predictor import make_predict
from cgankd.labels.ensemble import make_mean, spread_weights
from cgankd.labels.task import make_task
from cgankd.measure.features import make_features
from cgankd.nets.predictors.ensemble import Ensemble
from pipelines.engines.choice import run_jobs
from pipelines.files.artifacts import ResumeFile, file_digest, load_weights
from pipelines.files.distillers import check_distillers
from pipelines.networks import weights as packaged_weights
from pipelines.networks.distilled import load_student
from pipelines.networks.predictor import load_predictor, restore_predictor
from pipelines.runtime.curves import Curves
from pipelines.runtime.opening import open_context
from pipelines.search.pool import base_files
from pipelines.ship.saved import load_package, net_words
from pipelines.stages import bank, teacher
from pipelines.students.arm_rows import soft_weights
from pipelines.students.run_arm import train_job
from pipelines.teachers.members import member_jobs
from pipelines.teachers.packaged import gentle, packaged
from tests.distill.arms import job, settings, workplace
from tests.pipelines.finished import made_data
from tests.tiny import tiny, write_params

OTHER = {"net": "convnet", "width": 4, "num_steps": 40}


def project(folder: Path, members: Any, *, scalar: bool = False) -> dict[str, Any]:
    """params.yaml and artifacts/dataset.h5 of random images, with these members."""
    values = tiny("chairs" if scalar else "digits")
    values["tracking"]["mlflow"] = False
    values["teacher"] |= {"num_steps": 30, "batch_size": 8, "precision": "fp32", "members": members}
    info = made_data(scalar).info
    values["data"] |= {"source": info.source, "channels": info.channels}
    folder.mkdir(exist_ok=True)
    write_params(folder, values)
    if not (folder / "artifacts" / "dataset.h5").exists():
        (folder / "artifacts").mkdir()
        write_dataset(folder / "artifacts" / "dataset.h5", made_data(scalar))
    return values


def in_this_process(train: Any, jobs: list[Any], workers: int, done: Any, say: Any, steps: Any) -> None:
    """As run_jobs, without the seconds that a worker process takes to begin."""
    for count, one in enumerate(jobs, start=1):
        for line in train(one):
            say(line)
        done(count)


def run(folder: Path, engine: Any = in_this_process) -> str:
    """The stage `teacher` in a folder; what it said."""
    console = Console(record=True, file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "run_jobs", engine)
        with open_context("teacher", [], folder, console=console) as ctx:
            teacher.run(ctx)
    return console.export_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A plain-vgg and a convnet as the teacher of digits, trained one after the other."""
    folder = tmp_path_factory.mktemp("members") / "work"
    project(folder, [{}, OTHER])
    return folder, run(folder)


def test_the_number_of_workers_moves_no_bit_and_finished_members_are_kept(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    monkeypatch.setattr(teacher, "side_by_side", lambda device: 2)
    project(tmp_path / "work", [{}, OTHER])
    said = run(tmp_path / "work", run_jobs)
    assert "members 70/70" in said, "the steps of both together"
    for name in ("artifacts/teacher.safetensors", "artifacts/teacher.config.json", "plots/teacher/teacher.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "work" / name).read_bytes(), name
    before = load_file(folder / "artifacts/teacher.safetensors")
    project(tmp_path / "work", [{}, OTHER, {"learning_rate": 0.01}])
    assert "2 of 3 members were trained before under equal settings: kept" in run(tmp_path / "work")
    after = load_file(tmp_path / "work/artifacts/teacher.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) and len(after) > len(before)


def test_a_member_with_pixels_of_another_number_of_channels_is_named_before_any_training(tmp_path: Path) -> None:
    other = 1 if made_data(False).info.channels == 3 else 3
    project(tmp_path / "work", [{}, {"mean": [0.5] * other, "std": [0.2] * other}])
    with pytest.raises(ConfigError, match=r"teacher.members\[1\].mean must have \d numbers?, one a channel"):
        run(tmp_path / "work")
    assert not list((tmp_path / "work/artifacts").rglob("*.safetensors"))


def test_a_kill_after_a_member_was_kept_leaves_no_progress_behind(tmp_path: Path) -> None:
    project(tmp_path / "work", [{}, OTHER])
    run(tmp_path / "work")
    (first, _) = (tmp_path / "work/artifacts/resume/members").glob("*.safetensors")
    progress = first.with_name(f"{first.stem}-train.resume")
    progress.write_bytes(b"of the run that was killed")
    assert "2 of 2 members were trained before" in run(tmp_path / "work")
    assert not progress.exists()


def test_weights_and_metrics_are_those_of_validation(trained: tuple[Path, str]) -> None:
    folder, said = trained
    info = read_info(folder / "artifacts/dataset.h5")
    task = make_task(info, config_from_dict({k: v for k, v in project(folder, [{}, OTHER]).items() if k != "search"}))
    val = read_split(folder / "artifacts/dataset.h5", "val")
    tensors, config = load_weights(folder / "artifacts/teacher.safetensors")
    outputs = []
    for number, own in enumerate(config["members"]):
        prefix = f"members.{number}."
        mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        outputs.append(make_predict(restore_predictor(mine, own, info, 3), "fp32")(val.images))
    weights = make_mean(info).weights(torch.stack(outputs), val.labels).tolist()
    metrics = json.loads((folder / "metrics/teacher.json").read_text())
    assert [metrics[f"members.{k}.weight"] for k in range(2)] == pytest.approx(weights, abs=1e-9)
    errors = [float(task.score(out, val.labels).mean()) for out in outputs]
    assert [metrics[f"members.{k}.val"] for k in range(2)] == pytest.approx(errors)
    mean = sum(w * out.softmax(1) for w, out in zip(weights, outputs, strict=True))
    assert metrics["val"] == pytest.approx(100 * float((mean.argmax(1) != val.labels).double().mean()))
    assert f"member 1 (convnet): {errors[1]:.2f} %, weight {weights[1]:.2f}" in said and "teacher of 2 members" in said
    rows = (folder / "plots/teacher/teacher.csv").read_text().splitlines()
    assert rows[0] == "step,loss,val" and int(rows[-1].split(",")[0]) in (30, 40)


def test_whoever_loads_a_teacher_gets_the_ensemble(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    path, info = folder / "artifacts/teacher.safetensors", read_info(folder / "artifacts/dataset.h5")
    cfg = config_from_dict({k: v for k, v in project(folder, [{}, OTHER]).items() if k != "search"})
    net, config = load_predictor(path, info, make_task(info, cfg))
    assert isinstance(net, Ensemble) and not any(p.requires_grad for p in net.parameters())
    images = read_split(folder / "artifacts/dataset.h5", "val").images[:]
    package = load_package(path)
    assert torch.allclose(package.model.run(images), make_predict(net, "fp32")(images).exp(), atol=1e-6)
    assert net_words(config) == "the mean of 2 nets (plain-vgg, width 8; convnet, width 4)"
    features, out = make_features(net)(images)
    alone, _ = make_features(net.shown)(images)
    assert torch.equal(features, alone) and torch.allclose(out, net(images / 255.0), atol=1e-6)
    # The search takes it for that of these settings, and for no other's.
    for name in ("cgan", "ratio"):
        (folder / f"artifacts/{name}.safetensors").write_bytes(path.read_bytes())
        (folder / f"artifacts/{name}.config.json").write_text(json.dumps({name: {}}))
    assert base_files(folder, cfg)["teacher"] == path
    other = dataclasses.replace(cfg, teacher=dataclasses.replace(cfg.teacher, members=3))
    with pytest.raises(ConfigError, match=r"made with teacher\.members"):
        base_files(folder, other)


def test_a_killed_member_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = project(tmp_path, 2)
    values["teacher"] |= {"num_steps": 450, "width": 4}
    cfg = config_from_dict({name: section for name, section in values.items() if name != "search"})
    sections = [dataclasses.replace(cfg.teacher, members=None)] * 2
    dataset = tmp_path / "artifacts/dataset.h5"

    def of(folder: str) -> Any:
        jobs = member_jobs(sections, [None, None], cfg, dataset, tmp_path / folder, PLAIN, 1e9)
        assert jobs[0].seed == cfg.seed != jobs[1].seed and jobs[0].out != jobs[1].out
        return jobs[1]

    whole, killed, add = of("whole"), of("killed"), Curves.add
    teacher.train_member(whole)

    def interrupt(curves: Curves, step: int, values: Any) -> None:
        add(curves, step, values)
        if step > 230:
            raise KeyboardInterrupt

    monkeypatch.setattr(Curves, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        teacher.train_member(killed)
    assert not killed.finished() and list((tmp_path / "killed").glob("*.resume"))
    monkeypatch.setattr(Curves, "add", add)
    states: list[int] = []
    load = ResumeFile.load
    monkeypatch.setattr(
        ResumeFile, "load", lambda one: states.append(1 if (s := load(one)) is None else int(s["step"])) or s
    )
    teacher.train_member(killed)
    assert states == [1, 200], "no state by the clock; it went on where it was saved"
    assert killed.finished() and killed.curve() == whole.curve() and len(whole.curve()) == 50
    assert killed.out.read_bytes() == whole.out.read_bytes() and not list((tmp_path / "killed").glob("*.resume"))
    killed.record.write_text("{")
    assert not killed.finished()


def test_auto_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without packaged weights one teacher, as without members; with them three, of which one may be left."""
    monkeypatch.setattr(packaged_weights, "package_file", lambda one: None)
    project(tmp_path / "work", "auto")
    said = run(tmp_path / "work")
    assert "no packaged weights are installed (pip install 'cgankd[pretrained]')" in said
    project(tmp_path / "alone", None)
    run(tmp_path / "alone")
    digests = [file_digest(tmp_path / name / "artifacts/teacher.safetensors") for name in ("work", "alone")]
    assert digests[0] == digests[1]

    monkeypatch.setattr(teacher, "packaged", lambda *given: OTHER | {"weights": None})
    monkeypatch.setattr(teacher, "weighted", lambda found, *rest, may_drop: one_left(found, may_drop))
    said = run(tmp_path / "work")
    assert "the best member alone is the teacher" in said
    config = json.loads((tmp_path / "work/artifacts/teacher.config.json").read_text())
    assert config["net"] == "convnet" and "members" not in config and config["teacher"]["members"] == "auto"
    assert load_package(tmp_path / "work/artifacts/teacher.safetensors").num_parameters < 5000


def test_auto_says_where_none_of_the_three_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "packaged", lambda *given: OTHER | {"weights": "p.pt"})
    values = project(tmp_path / "work", "auto")

    def told(**changes: Any) -> str:
        said: list[str] = []
        own = {name: section for name, section in values.items() if name != "search"}
        cfg = config_from_dict(own | {"teacher": own["teacher"] | changes}).teacher
        assert len(teacher.members_of(cfg, made_data(False).info, 3000, "cpu", said.append)) == 3
        return said[0]

    two = "and 2 trainings of convnet that start from p.pt"
    assert told() == f"teacher.members auto: a fresh teacher as the section says, {two}"
    begun = "a teacher as the section says, which starts from w.pt, so that none is fresh,"
    assert told(weights="w.pt") == f"teacher.members auto: {begun} {two}"


def test_a_teacher_whose_members_cannot_disagree_says_what_will_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank is drawn after the GAN and the ratio, and would end there."""
    monkeypatch.setattr(packaged_weights, "package_file", lambda one: None)
    values = project(tmp_path / "work", "auto")
    assert "could disagree" not in run(tmp_path / "work")
    values["bank"]["filter_by"] = "both"
    values["student"]["spread_weight"] = 1.0
    write_params(tmp_path / "work", values)
    said = run(tmp_path / "work")
    words = "no members that could disagree, so that later stages will refuse bank.filter_by both and"
    cure = "set bank.filter_by to error and student.spread_weight to 0, or teacher.members to 2 or more"
    assert f"warning: this teacher has {words} student.spread_weight 1; {cure}" in said
    values["teacher"]["members"] = 2
    write_params(tmp_path / "work", values)
    assert "could disagree" not in run(tmp_path / "work")


def test_messages_name_the_member_whose_setting_is_wrong(tmp_path: Path) -> None:
    project(tmp_path / "work", [{}, {"weights": "gone.pt"}])
    with pytest.raises(ConfigError, match=r"^teacher\.members\[1\]\.weights is gone\.pt, but there is no such file"):
        run(tmp_path / "work")
    torch.save({"a": torch.ones(2)}, tmp_path / "work" / "gone.pt")
    with pytest.raises(ConfigError, match=r"^teacher\.members\[1\]\.weights gone\.pt fits 0 of the "):
        run(tmp_path / "work")


def one_left(found: Any, may_drop: bool) -> Any:
    assert may_drop, "auto may keep the better one alone"
    return [dataclasses.replace(member, weight=float(member is found[-1])) for member in found]


def test_the_pretrained_member_of_auto_is_a_valid_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packaged_weights, "package_file", lambda one: tmp_path)
    for scalar in (False, True):
        values = project(tmp_path / f"s{scalar}", "auto", scalar=scalar)
        values["teacher"] |= {"width": 8}
        cfg = config_from_dict({name: section for name, section in values.items() if name != "search"})
        own = packaged(made_data(scalar).info, 500, "cpu", "affine+flip+colour+cutout")
        assert own is not None and own["input_size"] >= 64
        fresh, tuned, second = teacher.members_of(cfg.teacher, made_data(scalar).info, 499, "cpu", lambda text: None)
        assert fresh == dataclasses.replace(cfg.teacher, members=None)
        assert tuned == second  # the seed alone differs
        assert tuned.net == "timm:tf_efficientnet_lite0" and tuned.weights == "package:efficientnet-lite0"
        assert own["augment"] == "shift+flip" and tuned.precision == "fp32"
        assert (own["batch_size"], tuned.batch_size) == (64, 64 if scalar else 32), "few images of classes"
        assert "precision" not in (packaged(made_data(scalar).info, 500, "cuda", "none") or {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [("none", "none"), ("colour+cutout", "none"), ("affine", "shift"), ("flip", "flip"), ("crop+flip", "shift+flip")],
)
def test_the_pretrained_member_is_augmented_gently(given: str, kept: str) -> None:
    assert gentle(given) == kept


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (1, "teacher.members must be null, a whole number from 2 to 1000, a list of mappings or auto, but is 1"),
        (True, "teacher.members must be null"),
        ("many", "but is 'many'"),
        ([{}], "teacher.members must be a list of at least 2 mappings"),
        ([{}, 3], r"teacher.members\[1\] must be a mapping of settings"),
        ([{}, {"precision": "bf16"}], r"teacher.members\[1\].precision must be fp32, or left out"),
        ([{}, {"file": "net.pt"}], r"teacher.members\[1\].file cannot differ between members"),
        ([{}, {"nett": "convnet"}], r"teacher.members\[1\]: teacher.nett is not a known setting; the nearest"),
        ([{}, {"batch_size": 1}], r"teacher.members\[1\]: teacher.batch_size must be at least 2"),
        ([{"width": None}, {}], r"teacher.members\[0\]: teacher.width must be at least 1 for plain-vgg"),
    ],
)
def test_mistakes_name_the_member(digits: dict[str, Any], members: Any, words: str) -> None:
    digits["teacher"]["members"] = members
    with pytest.raises(ConfigError, match=words):
        config_from_dict(digits)


def test_settings_that_look_at_members_need_them(digits: dict[str, Any]) -> None:
    for section, key, value in (("bank", "filter_by", "spread"), ("student", "spread_weight", 1.0)):
        values = {name: dict(part) if isinstance(part, dict) else part for name, part in digits.items()}
        values[section][key] = value
        with pytest.raises(ConfigError, match=f"{section}.{key} must be (error|0) where teacher.members is null"):
            config_from_dict(values)
        values["teacher"]["members"] = 2
        config_from_dict(values)


FEATURES = [
    n for n, m in METHODS.items() if m.needs.pooled or m.needs.stages or m.needs.preacts or m.needs.teacher_head
]


@pytest.mark.parametrize("name", [name for name in FEATURES if METHODS[name]().accepts(3)])
def test_losses_on_features_learn_from_the_heaviest_member(tmp_path: Path, name: str) -> None:
    folder = workplace(tmp_path, False, members=True)
    one = job(folder, settings(False, distiller=name), name)
    if name == "sdd":  # its regions have to make up the outputs, which are those of all members
        with pytest.raises(ConfigError, match="the teacher's last linear layer does not act on that map"):
            train_job(one)
        return
    train_job(one)
    info = read_info(one.dataset)
    load_student(one.out, info, make_task(info, one.config))
    assert one.read()["val"] >= 0


@pytest.mark.parametrize("scalar", [False, True])
def test_soft_labels_weigh_less_where_members_disagree(tmp_path: Path, scalar: bool) -> None:
    folder = workplace(tmp_path, scalar, members=True)
    jobs = [job(folder, settings(scalar, distiller="kd"), "plain")]
    for strength in (0.0, 1.0):
        values = settings(scalar, distiller="kd")
        student = dataclasses.replace(values.student, spread_weight=strength)
        members = dataclasses.replace(values.teacher, members=2)
        jobs.append(job(folder, dataclasses.replace(values, teacher=members, student=student), f"weight-{strength}"))
    for one in jobs:
        train_job(one)
    plain, off, on = (one.out.read_bytes() for one in jobs)
    assert plain == off != on
    got = soft_weights(folder / "pool.h5", jobs[2].arm, jobs[2].config.student)
    assert got is not None and torch.equal(got, spread_weights(torch.arange(1.0, 13.0), 1.0))
    assert soft_weights(folder / "pool.h5", jobs[1].arm, jobs[1].config.student) is None
    for shown in ({"mix": "mixup"}, {"views": 20}):  # mixtures and stored views have no disagreement of their own
        other = dataclasses.replace(jobs[2].arm, **shown)
        assert soft_weights(folder / "pool.h5", other, jobs[2].config.student) is None
    old = workplace(tmp_path / "old", scalar) if (tmp_path / "old").mkdir() is None else folder
    with pytest.raises(ConfigError, match="set student.spread_weight to 0"):
        soft_weights(old / "pool.h5", jobs[2].arm, jobs[2].config.student)


def test_weights_by_disagreement_leave_arms_of_mixtures_in_the_same_table() -> None:
    values = {name: section for name, section in tiny("digits").items() if name != "search"}
    values["teacher"]["members"] = 2
    values["student"] |= {"spread_weight": 1.0, "best_with_kd": False}
    values["student"]["arms"] = {
        "real": {},
        "raw_kd": {"bank": True, "kd": True},
        "raw_mix_kd": {"bank": True, "kd": True, "mix": "mixup", "mix_pairs": "real"},
    }
    cfg = config_from_dict(values).student
    assert [cfg.shows_single(arm) for arm in cfg.arms.values()] == [True, True, False]


def test_losses_that_cannot_weigh_rows_refuse(digits: dict[str, Any]) -> None:
    digits["teacher"]["members"] = 2
    digits["student"] |= {"spread_weight": 1.0, "distiller": "fitnet"}
    cfg = config_from_dict({name: section for name, section in digits.items() if name != "search"})
    with pytest.raises(
        ConfigError, match="student.spread_weight must be 0 for fitnet, which does not weigh fakes by it"
    ):
        check_distillers(cfg)


def test_a_bank_filtered_by_spread_needs_members() -> None:
    cfg = tiny("digits")
    cfg["teacher"]["members"], cfg["bank"]["filter_by"] = "auto", "both"
    settings_ = config_from_dict({name: section for name, section in cfg.items() if name != "search"})
    scorer: Any = type("Scorer", (), {"spreading": None})()
    with pytest.raises(ConfigError, match="bank.filter_by is both, but artifacts/teacher.safetensors has no members"):
        bank.check_members(settings_.bank, scorer)
