"""A bank by shards through the real stages: equal bytes whatever their number, and shards that do not fit are named."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from cgankd.bank import scores
from cgankd.bank.shards import Part
from cgankd.config import ConfigError
from cgankd.data.store.banks import read_pool_images, read_pool_scores
from pipelines.commands.app import app
from pipelines.locks import holding
from pipelines.repeat.shard_jobs import draw_shards
from pipelines.rounds import kept_blocks
from pipelines.rounds.shards import check_beside, command
from pipelines.runtime.opening import open_context, open_shard
from pipelines.stages.bank import run_shard
from tests.pipelines.rounds.test_kept_blocks import AtOnce, flip
from tests.tiny import tiny, write_params

ARMS = {"real": {}, "filter": {"bank": True, "subsample": True, "filter": True}, "raw": {"bank": True}}


def settings(preset: str) -> dict[str, Any]:
    values = tiny(preset)
    values["student"] |= {"arms": ARMS, "num_steps": 10, "best_with_kd": False}
    values["teacher"]["num_steps"] = 30
    values["bank"] |= {"num_fakes": 90, "block_size": 8, "batch_size": 16}
    return values


def run(folder: Path, *stages: str, sets: tuple[str, ...] = ()) -> str:
    text = io.StringIO()
    for stage in stages:
        console = Console(file=text, width=300)
        with open_context(stage, ["tracking.mlflow=false", *sets], folder, console=console) as ctx:
            importlib.import_module(f"pipelines.stages.{stage}").run(ctx)
    return text.getvalue()


def shard(folder: Path, number: int, total: int, *sets: str) -> str:
    text = io.StringIO()
    with open_shard(
        "bank", (number, total), ["tracking.mlflow=false", *sets], folder, console=Console(file=text)
    ) as ctx:
        run_shard(ctx, Part(number, total))
    return text.getvalue()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """All shards are made by as many threads, whatever ran before in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGANKD_THREADS", "1")
        yield


@pytest.fixture(scope="module", params=["digits", "chairs"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nets and the bank drawn at once, as artifacts/whole/."""
    folder = tmp_path_factory.mktemp(request.param)
    write_params(folder, settings(request.param))
    run(folder, "prepare", "teacher", "cgan", "ratio", "bank")
    keep(folder, "whole")
    return folder


def keep(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    for path in ("artifacts/pool.h5", "artifacts/bank.h5", "metrics/bank.json"):
        shutil.move(folder / path, folder / name)
    shutil.rmtree(folder / "artifacts/resume/bank", ignore_errors=True)


def copied(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder / "work", dirs_exist_ok=True)
    return folder / "work"


@pytest.fixture()
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of fakes that `score` was asked for."""
    found, real = list[int](), scores.score

    def counted(scorer: scores.Scorer, label_B: Any, *rest: Any) -> scores.Scores:
        found.append(len(label_B))
        return real(scorer, label_B, *rest)

    monkeypatch.setattr(scores, "score", counted)
    return found


@pytest.mark.parametrize("total", [1, 3, 7])
def test_a_bank_of_any_number_of_shards_has_the_same_bytes(
    whole: Path, tmp_path: Path, total: int, drawn: list[int]
) -> None:
    folder = copied(whole, tmp_path)
    for number in range(total):
        shard(folder, number, total)
    parts = [json.loads(path.read_text())["values"] for path in sorted(folder.glob("artifacts/shards/*/manifest.json"))]
    assert len(parts) == total and sum(drawn) == sum(part["fakes"] + part["burn_in"] for part in parts)
    by_shards = sum(drawn)
    drawn.clear()
    text = " ".join(run(folder, "bank").split())
    for name in ("pool.h5", "bank.h5"):
        assert (folder / "artifacts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert (folder / "metrics/bank.json").read_bytes() == (folder / "whole/bank.json").read_bytes()
    assert f"bank: {total} shard" in text and f"{sum(drawn)} that they did not foresee were drawn here" in text
    numbers = json.loads((folder / "metrics/bank.json").read_text())
    assert sum(drawn) < 0.5 * numbers["draws"], "most was foreseen, and none of that is drawn again"
    assert by_shards < 2 * (numbers["draws"] + numbers["burn_in_draws"]), "no two shards draw the same"
    assert not (folder / "artifacts/shards").exists(), "the shards are forgotten as soon as the bank is there"


def test_a_shard_that_was_cut_short_goes_on(
    whole: Path, tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_blocks, "Pace", AtOnce)
    folder, real, left = copied(whole, tmp_path), scores.score, [4]
    shard(folder, 0, 2)
    first = sum(drawn)
    shutil.rmtree(folder / "artifacts/shards")

    def killed(*given: Any) -> scores.Scores:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scores, "score", killed)
        shard(folder, 0, 2)
    drawn.clear()
    assert "used again" in shard(folder, 0, 2)
    assert 0 < sum(drawn) < first
    drawn.clear()
    assert "is there already" in shard(folder, 0, 2) and not drawn


def lose(top: Path) -> None:
    shutil.rmtree(top / "1-of-3")


def double(top: Path) -> None:
    shutil.copytree(top / "1-of-3", top / "9-of-10")


def unfinished(top: Path) -> None:
    (top / "1-of-3/manifest.json").unlink()


def damage(top: Path) -> None:
    path = next((top / "1-of-3").glob("*.safetensors"))
    flip(path, path.stat().st_size - 1)


def lose_file(top: Path) -> None:
    next((top / "1-of-3").glob("*.safetensors")).unlink()


def add_file(top: Path) -> None:
    shutil.copy(next((top / "0-of-3").glob("*.safetensors")), top / "1-of-3/000777.safetensors")


def fold(top: Path) -> None:
    (top / "1-of-3/manifest.json").unlink()
    (top / "1-of-3/manifest.json").mkdir()


def garble(top: Path) -> None:
    (top / "1-of-3/manifest.json").write_text("{")


def stray(top: Path) -> None:
    (top / "notes").mkdir()


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (
        lose,
        r"shard 1 of 3 of the bank is missing; run `cgankd bank --shards 3 --shard 1 --set .*`, or delete artifacts/shards to",
    ),
    (double, r"shard 1 of 3 is there twice, in artifacts/shards/1-of-3 and artifacts/shards/9-of-10; delete one"),
    (unfinished, r"shard 1 of 3 of the bank is not finished; run `cgankd bank --shards 3 --shard 1 --set tracking"),
    (
        damage,
        r"1-of-3 is damaged \(000001.safetensors has other bytes than were written\); run `cgankd bank --shards 3 --sh",
    ),
    (
        lose_file,
        r"1-of-3 is damaged \(000001.safetensors is missing\); run `cgankd bank --shards 3 --shard 1 --set .*=false` again",
    ),
    (add_file, r"1-of-3 is damaged \(000777.safetensors is not of this shard\); run"),
    (
        garble,
        r"1-of-3 is damaged \(manifest.json cannot be read\); run `cgankd bank --shards 3 --shard 1 --set .*=false` again",
    ),
    (fold, r"^artifacts/shards/1-of-3/manifest.json is a folder; delete it, then give the same command$"),
    (stray, r"artifacts/shards/notes is no shard of a bank"),
]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards that were not joined yet."""
    folder = tmp_path_factory.mktemp("three")
    write_params(folder, settings("digits"))
    run(folder, "prepare", "teacher", "cgan", "ratio")
    for number in range(3):
        shard(folder, number, 3)
    return folder


@pytest.mark.parametrize(("breaks", "said"), BROKEN, ids=[breaks.__name__ for breaks, _ in BROKEN])
def test_a_shard_that_does_not_fit_is_named(
    three: Path, tmp_path: Path, breaks: Callable[[Path], None], said: str
) -> None:
    folder = copied(three, tmp_path)
    breaks(folder / "artifacts/shards")
    with pytest.raises(ConfigError, match=said):
        run(folder, "bank")
    assert not (folder / "artifacts/pool.h5").exists()


@pytest.mark.parametrize(
    ("variable", "sets", "said"),
    [
        (None, ("bank.rho=0.6",), r"bank.rho 0.9, here 0.6\); join with the settings it was made with, run "),
        (None, ("seed=5",), r"seed 0, here 5"),
        ("CGANKD_THREADS", (), "CGANKD_THREADS 1, here 2"),
    ],
)
def test_a_foreign_shard_is_named_with_what_differs(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, sets: tuple[str, ...], said: str
) -> None:
    folder = copied(three, tmp_path)
    if variable is not None:
        monkeypatch.setenv(variable, "2")
    named = "".join(f" --set {setting}" for setting in sets)
    with pytest.raises(
        ConfigError,
        match=rf"0-of-3 was made with other things \(.*{said}.*--shards 3 --shard 0 --set tracking.mlflow=false{named}` again",
    ):
        run(folder, "bank", sets=sets)


def test_a_setting_is_quoted_in_the_command_that_is_named() -> None:
    assert command(Part(1, 3), ["data.root='/a b'"]).endswith("""--shard 1 --set 'data.root='"'"'/a b'"'"''""")


def other_processor(patch: pytest.MonkeyPatch) -> None:
    """One with the same vector units, and AMX or not, as this one has not or has."""
    there = torch.cpu._is_amx_tile_supported()
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not there)


def test_a_shard_of_another_kind_of_processor_is_named(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(three, tmp_path)
    (folder / "artifacts/shards/0-of-3/manifest.json").unlink()
    with monkeypatch.context() as patch:
        other_processor(patch)
        assert "used again" not in shard(folder, 0, 3), "nor are blocks of a shard that was cut short"
    with pytest.raises(
        ConfigError,
        match=r"0-of-3 was made with other things \(the kind of processor .* amx.*; run `cgankd bank --shards 3",
    ):
        run(folder, "bank")


def test_the_command_that_is_named_heals_a_shard_with_a_file_too_many(three: Path, tmp_path: Path) -> None:
    folder = copied(three, tmp_path)
    add_file(folder / "artifacts/shards")
    said = " ".join(shard(folder, 1, 3).split())
    assert "artifacts/shards/1-of-3: 000777.safetensors is not of this shard and was deleted" in said
    assert "is there already" in said
    run(folder, "bank")
    assert (folder / "artifacts/bank.h5").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0-of-3/manifest.json", "0-of-3/manifest.json is a folder"),
        ("0-of-3/000009.safetensors", "0-of-3/000009.safetensors is a folder"),
        ("0-of-3", "0-of-3 is no folder"),
        ("", "artifacts/shards is no folder"),
    ],
)
def test_what_stands_in_the_way_of_a_shard_is_named(three: Path, tmp_path: Path, name: str, said: str) -> None:
    folder = copied(three, tmp_path)
    path = folder / "artifacts/shards" / name
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    with pytest.raises(ConfigError, match=f"{said}; delete it, then give the same command$"):
        shard(folder, 0, 3)


def renamed(top: Path) -> None:
    (top / "1-of-3").rename(top / "9-of-10")


@pytest.mark.parametrize(
    ("breaks", "total", "said"),
    [
        (
            None,
            2,
            r"holds shards of another number than 2 \(artifacts/shards/0-of-3, .*/1-of-3, .*/2-of-3\); delete them,",
        ),
        (None, 9, r"holds shards of another number than 9 \("),
        (unfinished, 3, None),
        (stray, 3, "artifacts/shards/notes is no shard of a bank"),
        (double, 3, "9-of-10 holds shard 1 of 3, whose place is artifacts/shards/1-of-3; delete one of them, then"),
        (
            renamed,
            3,
            "9-of-10 holds shard 1 of 3, whose place is artifacts/shards/1-of-3; rename the one to the other,",
        ),
    ],
)
def test_what_no_join_takes_is_refused_before_a_shard_is_drawn(
    three: Path, tmp_path: Path, breaks: Callable[[Path], None] | None, total: int, said: str | None
) -> None:
    top = copied(three, tmp_path) / "artifacts/shards"
    if breaks is not None:
        breaks(top)
    if said is None:
        check_beside(top, total)
        return
    with pytest.raises(ConfigError, match=said):
        draw_shards(top.parents[1], total, (), Console(quiet=True))
    assert total == 3 or not list(top.glob(f"*-of-{total}"))


def test_the_same_shard_begun_twice_waits_and_is_drawn_once(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = copied(three, tmp_path), io.StringIO()
    shutil.rmtree(folder / "artifacts/shards/0-of-3")
    monkeypatch.setattr(holding, "WAIT_S", 0.0)
    with (
        open_shard("bank", (0, 3), (), folder, console=Console(file=text)),
        pytest.raises(
            ConfigError, match=rf"another `cgankd bank --shards 3 --shard 0` \(process {os.getpid()}\) is running"
        ),
    ):
        shard(folder, 0, 3)
    assert not (folder / "artifacts/shards/0-of-3").exists()


def test_shards_of_other_nets_are_named(three: Path, tmp_path: Path) -> None:
    folder = copied(three, tmp_path)
    run(folder, "ratio", sets=("ratio.num_steps=3",))
    with pytest.raises(ConfigError, match=r"another artifacts/ratio.config.json; another artifacts/ratio.safetensors"):
        run(folder, "bank")
    shard(folder, 0, 3)
    with pytest.raises(ConfigError, match=r"artifacts/shards/1-of-3 was made with other things"):
        run(folder, "bank")


def test_sets_of_two_sizes_are_named(three: Path, tmp_path: Path) -> None:
    folder = copied(three, tmp_path)
    shard(folder, 1, 2)
    with pytest.raises(
        ConfigError, match=r"artifacts/shards holds shards of a bank of 2 and of one of 3; delete those .*1-of-2"
    ):
        run(folder, "bank")


def test_a_bank_in_several_files_feeds_the_students_the_same(three: Path, tmp_path: Path) -> None:
    ours, theirs = copied(three, tmp_path / "a"), copied(three, tmp_path / "b")
    several = ("bank.rows_per_file=40",)
    run(ours, "bank", sets=several)
    run(theirs, "bank")
    for name in ("pool.h5", "bank.h5"):
        assert len(list((ours / "artifacts" / name).iterdir())) > 1
        one, many = (read_pool_scores(folder / "artifacts" / name) for folder in (theirs, ours))
        assert one.keys() == many.keys() and all(torch.equal(one[column], many[column]) for column in one)
        every = torch.arange(len(one["asked"]))
        assert torch.equal(*(read_pool_images(folder / "artifacts" / name, every) for folder in (theirs, ours)))
    for folder, sets in ((ours, several), (theirs, ())):
        run(folder, "student", sets=sets)
    runs = [sorted(folder.glob("artifacts/students/*.safetensors")) for folder in (ours, theirs)]
    assert len(runs[0]) > 2 and [a.read_bytes() for a in runs[0]] == [b.read_bytes() for b in runs[1]]
    # What the stage left is known by its digest, part by part, and a part that is lost is named.
    min((ours / "artifacts/pool.h5").iterdir()).unlink()
    with pytest.raises(ValueError, match="pool.h5 lacks 00000-of"):
        run(ours, "student", sets=several)
    run(ours, "bank")
    assert (ours / "artifacts/pool.h5").read_bytes() == (theirs / "artifacts/pool.h5").read_bytes()


def test_one_command_draws_all_shards_by_worker_processes_and_joins_them(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(whole, tmp_path)
    monkeypatch.chdir(folder)
    shard(folder, 1, 3)
    done = CliRunner().invoke(app, ["bank", "--shards", "3", "--set", "tracking.mlflow=false"])
    assert done.exit_code == 0, done.output
    said = done.output.splitlines()
    assert said.count("3 of 3 shards") == 1 and sum(line.startswith("bank: 3 shards hold") for line in said) == 1
    assert sum(line.startswith("shard 1 of 3 of the bank is there already") for line in said) == 1
    for name in ("pool.h5", "bank.h5"):
        assert (folder / "artifacts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    (folder / "artifacts/ratio.safetensors").unlink()
    done = CliRunner().invoke(app, ["bank", "--shards", "3"])
    assert done.exit_code == 2 and "ratio.safetensors is missing; run `cgankd ratio` first" in done.output
    done = CliRunner().invoke(app, ["bank", "--shard", "3"])
    assert done.exit_code == 2 and "--shard needs --shards" in done.output
