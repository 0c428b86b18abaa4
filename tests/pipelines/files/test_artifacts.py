from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cgankd.config import ArmConfig, Config, ConfigError
from cgankd.fit.loop import Loop
from pipelines.files import artifacts
from pipelines.files.artifacts import (
    ResumeFile,
    config_path,
    file_digest,
    fingerprint,
    load_weights,
    read_record,
    replacing,
    save_weights,
    source_digest,
    write_json,
)
from pipelines.files.kept_runs import write_sealed
from pipelines.files.layout import MAKERS, STAGES, missing
from pipelines.files.params import write_text
from pipelines.students.run_arm import Job

FLAT = st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text("xy"), max_size=4)


def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def test_weights_come_back_with_their_config(tmp_path: Path) -> None:
    path = tmp_path / "artifacts" / "teacher.safetensors"
    save_weights(path, net(), {"width": 4, "net": "vgg"})
    weights, config = load_weights(path)
    assert config == {"net": "vgg", "width": 4}
    for name, tensor in net().state_dict().items():
        assert torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype
    assert sorted(p.name for p in path.parent.iterdir()) == ["teacher.config.json", "teacher.safetensors"]
    assert (path.parent / "teacher.config.json").read_text() == '{\n  "net": "vgg",\n  "width": 4\n}\n'


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    for name in ("a", "b"):
        save_weights(tmp_path / f"{name}.safetensors", {"x": shared, "y": shared, "z": shared[::2]}, {})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert torch.equal(load_weights(tmp_path / "a.safetensors")[0]["z"], torch.tensor([0.0, 2.0, 4.0]))


def test_what_cannot_be_written_is_named_and_not_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda path: write_text(path, "x"), lambda path: write_json(path, {})):
        with pytest.raises(
            ConfigError, match=r"/file/x.json cannot be written \(.*\); move .*/file away, which is a file"
        ):
            write(tmp_path / "file/x.json")
        with pytest.raises(
            ConfigError, match="is a folder, but a file is written there; move it away and run the same"
        ):
            write(tmp_path)
        with pytest.raises(
            ConfigError, match=r"/file/x.json cannot be written \(.*\); name a file in a folder you may"
        ):
            write_text(tmp_path / "file/x.json", "x", named=True)
        with pytest.raises(ConfigError, match="is a folder; name a file in it"):
            write_text(tmp_path, "x", named=True)
        write(tmp_path / "new/deep/x.json")
    with pytest.raises(FileNotFoundError, match="other"), replacing(tmp_path / "y"):
        (tmp_path / "other").read_text()  # a file that is read while one is written keeps its own error
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "file", "new", "x.json"]


@pytest.mark.parametrize("text", ['{"arms": {', "[]", "{}", "\udcff"])
@pytest.mark.parametrize(
    ("name", "command"), [("students/runs.json", "student"), ("teacher.config.json", "teacher"), ("pool.json", "bank")]
)
def test_a_damaged_record_names_its_file_and_stage(tmp_path: Path, name: str, command: str, text: str) -> None:
    path = tmp_path / "artifacts" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=rf"{name} is damaged .*run `cgankd {command}` again"):
        read_record(path, ("arms",))
    path.write_text('{"arms": {}}')
    assert read_record(path, ("arms",)) == {"arms": {}}


def test_a_foreign_config_beside_weights_is_named(tmp_path: Path) -> None:
    for name in ("teacher", "cgan"):
        path = tmp_path / "artifacts" / f"{name}.safetensors"
        save_weights(path, {"x": torch.ones(1)}, {})
        with pytest.raises(ConfigError, match=rf"{name}.config.json is damaged \(it has no 'info'\).*cgankd {name}"):
            load_weights(path, ("info",))


def test_a_record_cut_off_counts_as_an_unfinished_run(tmp_path: Path, digits_config: Config) -> None:
    job = Job(
        name="raw",
        arm=ArmConfig(),
        seed=0,
        stage="arm",
        config=digits_config,
        dataset=tmp_path,
        teacher=tmp_path,
        pool=tmp_path,
        out=tmp_path / "run.safetensors",
        init=None,
        memory_bytes=0,
        teacher_key={},
    )
    save_weights(job.out, {"x": torch.ones(2)}, {})
    assert not job.finished()
    values = {"val": 3.0, "val_balanced": 4.0, "curves": {}}
    write_sealed(job.record, values, [job.out, config_path(job.out)])
    whole = job.record.read_text()
    for text, finished in ((whole[:-20], False), ("{}", False), (json.dumps(values), False), (whole, True)):
        job.record.write_text(text)
        assert job.finished() == finished
    write_sealed(job.record, {"val": 3.0}, [job.out])
    assert not job.finished()  # a record of older make lacks what is needed


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "teacher.safetensors"
    save_weights(path, {"x": torch.ones(2)}, {})
    before = path.read_bytes()

    def half_write(tensors: Any, target: Path, metadata: None) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(artifacts, "save_file", half_write)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"x": torch.zeros(2)}, {})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["teacher.config.json", "teacher.safetensors"]


def test_missing_and_damaged_files_name_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "artifacts" / "teacher.safetensors"
    with pytest.raises(ConfigError, match=r"artifacts/teacher\.safetensors is missing; run `cgankd teacher` first"):
        load_weights(path)
    save_weights(path, {"x": torch.ones(2)}, {})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigError, match=r"damaged.*run `cgankd teacher` again"):
        load_weights(path)
    artifacts.config_path(path).unlink()
    with pytest.raises(ConfigError, match=r"artifacts/teacher\.config\.json is missing"):
        load_weights(path)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("dataset.h5", "prepare"),
        ("pool.h5", "bank"),
        ("students/runs.json", "student"),
        ("students/student-raw-0.safetensors", "student"),
        ("student.safetensors", "evaluate"),
    ],
)
def test_missing_artifacts_name_the_stage_that_makes_them(name: str, stage: str) -> None:
    assert str(missing(Path("/w/artifacts") / name)) == f"artifacts/{name} is missing; run `cgankd {stage}` first"
    assert set(MAKERS.values()) <= set(STAGES)


def test_json_is_sorted_and_valid_even_for_numbers_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"b": float("nan"), "a": [1.5, float("inf")], "c": {"d": None}})
    text = (tmp_path / "m.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.5, None], "b": None, "c": {"d": None}}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")


@given(FLAT, FLAT, st.randoms())
def test_fingerprint_ignores_order_and_sees_every_value(config: Any, inputs: Any, random: Any) -> None:
    def shuffled(values: dict[str, Any]) -> dict[str, Any]:
        keys = list(values)
        random.shuffle(keys)
        return {k: values[k] for k in keys}

    mark = fingerprint(config, inputs)
    assert fingerprint(shuffled(config), shuffled(inputs)) == mark
    assert fingerprint(config | {"new": 1}, inputs) != mark != fingerprint(config, inputs | {"new": "1"})
    if inputs != config:
        assert fingerprint(inputs, config) != mark


def test_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "students"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    first = file_digest(folder)
    (folder / "sub" / "b").write_text("3")
    second = file_digest(folder)
    (folder / "a").rename(folder / "c")
    assert len({first, second, file_digest(folder)}) == 3
    assert len(source_digest()) == 64 and source_digest() != source_digest("pipelines/files/artifacts.py")


def resume(path: Path, mark: str, said: list[str], **more: Any) -> ResumeFile:
    return ResumeFile(path, mark, said.append, **more)


def test_resume_gives_back_state_and_companion(tmp_path: Path) -> None:
    said: list[str] = []
    got: list[tuple[int, Any]] = []
    path = tmp_path / "teacher" / "teacher.pt"
    file = resume(
        path, "f", said, on_save=lambda: [[1, {"loss": 0.5}]], on_load=lambda step, rows: got.append((step, rows))
    )
    assert file.load() is None and said == []
    module = net()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    file.save(7, {"step": 7, "net": module.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.5})
    state: Any = file.load()
    assert state["step"] == 7 and state["best"] == 0.5 and got == [(7, [[1, {"loss": 0.5}]])]
    assert torch.equal(state["net"]["0.weight"], module.state_dict()["0.weight"])
    assert said == ["teacher/teacher: resuming at step 7"]
    file.delete()
    assert file.load() is None and list(path.parent.iterdir()) == []


def test_resume_under_another_fingerprint_starts_afresh_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "gan.pt"
    resume(path, "one", said).save(3, {"step": 3})
    assert resume(path, "two", said).load() is None
    assert len(said) == 1 and "changed" in said[0] and "afresh" in said[0]


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("hacked"),))


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "other"])
def test_a_damaged_or_hostile_resume_file_starts_afresh(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    path = tmp_path / "gan.pt"
    file = resume(path, "f", said)
    file.save(3, {"step": 3, "x": torch.randn(100)})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "pickle":
        torch.save({"fingerprint": "f", "step": 3, "state": Payload(), "companion": None}, path)
    else:
        path.write_bytes(pickle.dumps({"fingerprint": "f"}))
    assert file.load() is None
    assert not (tmp_path / "hacked").exists()
    assert len(said) == 1 and "cannot be read" in said[0] and "afresh" in said[0]


def test_a_state_saved_by_the_clock_lies_beside_the_last_one_by_the_steps(tmp_path: Path) -> None:
    """It is taken up after a kill; the next save by the steps takes its place, and the end leaves neither."""
    said, path = list[str](), tmp_path / "gan.pt"
    kept = resume(path, "mark", said, on_save=lambda: "companion")
    loop = Loop(0, checkpoint=kept)
    kept.save(100, {"step": 100})
    kept.between.save(130, {"step": 130})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gan-late.pt", "gan.pt"]
    assert loop.state() == {"step": 130} and kept.load() == {"step": 100}
    assert resume(path, "other", said).between.load() is None
    kept.save(200, {"step": 200})
    assert loop.state() == {"step": 200} and not (tmp_path / "gan-late.pt").exists()
    kept.between.save(230, {"step": 230})
    kept.delete()
    assert list(tmp_path.iterdir()) == []
