"""Rounds of hard fakes through the real stages: rows behind the plain ones, equal numbers, equal bytes after a kill."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cgankd.bank import hard, scores
from cgankd.bank.hard import NearSource
from cgankd.config import ConfigError
from cgankd.data.store.banks import of_fakes, read_attributes, read_pool_images, read_pool_scores
from cgankd.data.store.datasets import read_info
from cgankd.labels.task import make_task
from pipelines.files.params import load_config
from pipelines.networks.generator import load_draw
from pipelines.report.fakes import read_fakes
from pipelines.rounds import hard as rounds
from pipelines.rounds import kept_blocks
from pipelines.runtime.opening import open_context
from pipelines.search.config import searched_config
from pipelines.search.space import check_space
from pipelines.ship.card import fakes_of
from pipelines.students.arm_rows import bank_split
from tests.pipelines.rounds.test_kept_blocks import AtOnce
from tests.tiny import tiny, write_params

FILTER = {"bank": True, "subsample": True, "filter": True}
ARMS = {"real": {}, "filter": FILTER}
HARD = ARMS | {"filter_hard": FILTER | {"hard": True}, "raw_hard": {"bank": True, "hard": True}}
ROUNDS = {"rounds": 3, "probe": {"net": "convnet", "width": 4, "num_steps": 20}}


def settings(arms: dict[str, Any], **bank: Any) -> dict[str, Any]:
    values = tiny("digits")
    values["student"] |= {"arms": arms, "num_steps": 10, "best_with_kd": False}
    values["teacher"]["num_steps"] = 30
    values["bank"] |= {"num_fakes": 70} | bank
    return values


def run(folder: Path, values: dict[str, Any], *stages: str) -> str:
    write_params(folder, values)
    text = io.StringIO()
    for stage in stages:
        with open_context(stage, ["tracking.mlflow=false"], folder, console=Console(file=text, width=200)) as ctx:
            importlib.import_module(f"pipelines.stages.{stage}").run(ctx)
    return text.getvalue()


def numbers(folder: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"metrics/{stage}.json").read_text())
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain bank (artifacts/plain.h5 is its pool), then one with rounds for two arms."""
    folder = tmp_path_factory.mktemp("rounds")
    run(folder, settings(ARMS | {"raw": {"bank": True}}), "prepare", "teacher", "cgan", "ratio", "bank")
    shutil.copy(folder / "artifacts/pool.h5", folder / "artifacts/plain.h5")
    (folder / "log").write_text(run(folder, settings(HARD, **ROUNDS), "bank"))
    return folder


def copy_of(work: Path, folder: Path) -> Path:
    shutil.copytree(work, folder / "work")
    return folder / "work"


def test_further_rows_lie_behind_the_plain_ones_which_stay_as_they_were(work: Path) -> None:
    pool, plain = read_pool_scores(work / "artifacts/pool.h5"), read_pool_scores(work / "artifacts/plain.h5")
    assert not {"round", "in_hard_filter"} & set(plain)
    fakes, num = of_fakes(pool), len(plain["asked"])
    assert fakes.keys() == plain.keys() and all(torch.equal(fakes[name], plain[name]) for name in plain)
    rows = torch.arange(num)
    assert torch.equal(*(read_pool_images(work / f"artifacts/{name}.h5", rows) for name in ("pool", "plain")))
    assert bool((pool["round"][:num] == 1).all()) and set(pool["round"][num:].tolist()) == {2, 3}
    assert not pool["in_filter"][num:].any() and "teacher_spread" not in pool
    assert len(read_pool_scores(work / "artifacts/bank.h5")["labels"]) == 70, "the bank holds plain draws"


@pytest.mark.parametrize("name", ["filter", "raw"])
def test_an_arm_has_as_many_fakes_of_each_label_a_third_of_them_plain(work: Path, name: str) -> None:
    pool = read_pool_scores(work / "artifacts/pool.h5")
    flag, plain = pool[f"in_hard_{name}"].bool(), pool[f"in_{name}"].bool()
    assert pool["asked"][flag].bincount().tolist() == pool["asked"][plain].bincount().tolist() == [7] * 10
    for number, count in ((1, 3), (2, 2), (3, 2)):
        assert pool["asked"][flag & (pool["round"] == number)].bincount().tolist() == [count] * 10
    for label in range(10):
        mine, theirs = ((of & (pool["asked"] == label)).nonzero()[:, 0] for of in (flag, plain))
        assert mine[:3].tolist() == theirs[:3].tolist(), "the first plain ones in draw order"
    report = numbers(work, "bank")
    assert report[f"hard_{name}.kept"] == 70 and f"hard_{name}.missing" not in report
    assert report[f"hard_{name}.teacher_error_mean"] == pytest.approx(float(pool["teacher_error"][flag].mean()))
    assert report[f"hard_{name}.divergence_near"] > 0 and report[f"hard_{name}.divergence_plain"] > 0
    assert "70 kept in 3 rounds for arms with hard" in (work / "log").read_text()


def test_children_lie_near_parents_and_passed_what_plain_fakes_pass(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in a run again: latents of parents make the parents' images, M1 and M2 are those of the plain draws."""
    seen: list[tuple[NearSource, rounds.Chosen]] = []
    draw_round, parents_of = rounds.draw_round, rounds.parents_of
    info, cfg = read_info(work / "artifacts/dataset.h5"), load_config(work / "params.yaml")
    draw = load_draw(work / "artifacts/cgan.safetensors", info, make_task(info, cfg))
    images: list[bool] = []

    def watched(bench: rounds.Bench, near: NearSource, limits: Any) -> Any:
        found = draw_round(bench, near, limits)
        seen.append((near, found[0]))
        return found

    def parents(bench: rounds.Bench, chosen: rounds.Chosen, probe: Any) -> Any:
        labels = bench.writer.read("asked", chosen.rows)
        made = draw.at(chosen.z, labels)  # type: ignore[attr-defined]
        images.append(torch.equal(made, bench.writer.read("images", chosen.rows)))
        return parents_of(bench, chosen, probe)

    monkeypatch.setattr(rounds, "draw_round", watched)
    monkeypatch.setattr(rounds, "parents_of", parents)
    before = (work / "artifacts/pool.h5").read_bytes()
    run(work, settings(HARD, **ROUNDS), "bank")
    assert (work / "artifacts/pool.h5").read_bytes() == before, "the same bytes again"
    assert len(images) == len(seen) == 4 and all(images)
    for near, chosen in seen:
        quota = {2: 2, 3: 2}[near.round]
        assert chosen.group.bincount().tolist() == [quota] * 10
        counts = {g: len(p.label_P) for g, p in near.parents.items()}
        assert set(counts.values()) == {1 if near.round == 2 else 2}, "a quarter of 3 and of 5"
        far = [
            float((z - near.parents[int(g)].z_PZ).square().mean(1).min())
            for z, g in zip(chosen.z, chosen.group, strict=True)
        ]
        # z' - z has the variance 2 - 2 sqrt(1 - s^2) = 0.27 in each of 16 places, two draws alike 2.
        assert sum(far) / len(far) == pytest.approx(0.27, abs=0.1)


def test_a_killed_stage_takes_up_its_probes_and_ends_on_equal_bytes(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(work, tmp_path)
    (folder / "artifacts/pool.h5").unlink()
    draw_round = rounds.draw_round

    def killed(bench: rounds.Bench, near: NearSource, limits: Any) -> Any:
        if near.round == 3:
            raise KeyboardInterrupt
        return draw_round(bench, near, limits)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "draw_round", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, settings(HARD, **ROUNDS), "bank")
    assert not (folder / "artifacts/pool.h5").exists()
    said = run(folder, settings(HARD, **ROUNDS), "bank")
    assert "bank/probe_raw_2: resuming at step 20" in said and "bank/probe_raw_3: resuming at step 20" in said
    for name in ("pool.h5", "bank.h5"):
        assert (folder / "artifacts" / name).read_bytes() == (work / "artifacts" / name).read_bytes()
    assert numbers(folder, "bank") == numbers(work, "bank")
    assert not list((folder / "artifacts/resume/bank").glob("probe*"))


@pytest.mark.parametrize("after", [3, 15, 45])
def test_a_killed_stage_draws_no_block_twice_and_ends_on_equal_bytes(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed after so many blocks: in the burn-in, in the plain draws, and near hard ones."""
    folder, drawn = copy_of(work, tmp_path), list[int]()
    shutil.rmtree(folder / "artifacts/resume")
    (folder / "artifacts/pool.h5").unlink()
    score = scores.score

    def counted(*args: Any, **rest: Any) -> scores.Scores:
        drawn.append(1)
        if len(drawn) == after + 1 and most:
            raise KeyboardInterrupt
        return score(*args, **rest)

    monkeypatch.setattr(scores, "score", counted)
    monkeypatch.setattr(kept_blocks, "Pace", AtOnce)
    most = after
    with pytest.raises(KeyboardInterrupt):
        run(folder, settings(HARD, **ROUNDS), "bank")
    assert len(drawn) == after + 1 and not (folder / "artifacts/pool.h5").exists()
    kept = folder / "artifacts/resume/bank/blocks"
    assert len(list(kept.iterdir())) == after
    most, before = 0, len(drawn)
    said = run(folder, settings(HARD, **ROUNDS), "bank")
    assert "scored fakes of a run that was cut short are used again" in said
    resumed = len(drawn) - before
    for name in ("pool.h5", "bank.h5"):
        assert (folder / "artifacts" / name).read_bytes() == (work / "artifacts" / name).read_bytes()
    assert numbers(folder, "bank") == numbers(work, "bank") and not kept.exists()
    shutil.rmtree(folder / "artifacts/resume")
    before = len(drawn)
    run(folder, settings(HARD, **ROUNDS), "bank")
    assert len(drawn) - before == after + resumed, "each block once"


def test_arms_stand_in_one_table_and_their_fakes_are_told(work: Path, tmp_path: Path) -> None:
    folder = copy_of(work, tmp_path)
    run(folder, settings(HARD, **ROUNDS), "student", "evaluate")
    result = numbers(folder, "evaluate")
    assert {name: arm["uses_bank"] for name, arm in result["arms"].items()} == {
        **{"real": False, "filter": True, "filter_hard": True, "raw_hard": True}
    }
    runs = json.loads((folder / "artifacts/students/runs.json").read_text())
    assert runs["arms"]["filter_hard"]["switches"]["hard"] is True and "hard" not in runs["arms"]["filter"]["switches"]
    weights = [(folder / f"artifacts/students/student-{name}-0.safetensors").read_bytes() for name in HARD]
    assert len(set(weights)) == 4, "they learned from other fakes"
    cfg, pool = load_config(folder / "params.yaml"), folder / "artifacts/pool.h5"
    found = read_pool_scores(pool)
    split = bank_split(pool, cfg.student.arms["filter_hard"])
    assert torch.equal(split.labels, found["asked"][found["in_hard_filter"].bool()])
    assert fakes_of(found, "filter", hard=True) == (70, len(found["asked"]))
    assert fakes_of(found, "filter", hard=False) == (70, len(of_fakes(found)["asked"]))
    shown = read_fakes(folder, cfg)
    assert shown is not None and len(shown.scores["asked"]) == int((found["round"] == 1).sum())
    assert json.loads(str(read_attributes(pool)["config"]))["rounds"] == 3


def test_students_of_a_pool_without_hard_fakes_are_refused(work: Path, tmp_path: Path) -> None:
    folder = copy_of(work, tmp_path)
    shutil.copy(folder / "artifacts/plain.h5", folder / "artifacts/pool.h5")
    with pytest.raises(ValueError, match=r"arms\.filter_hard needs the fakes selected as 'hard_filter', .*cgankd bank"):
        run(folder, settings(HARD, **ROUNDS), "student")


def test_rounds_without_an_arm_change_nothing_and_say_so(work: Path, tmp_path: Path) -> None:
    folder = copy_of(work, tmp_path)
    said = run(folder, settings(ARMS | {"raw": {"bank": True}}, **ROUNDS), "bank")
    assert "WARNING: no arm uses bank.rounds 3" in said
    found, plain = (read_pool_scores(folder / f"artifacts/{name}.h5") for name in ("pool", "plain"))
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)


def test_another_net_than_the_students_is_said_and_a_search_wants_plain_draws(work: Path, tmp_path: Path) -> None:
    folder = copy_of(work, tmp_path)
    wide = {"rounds": 2, "probe": {"net": "convnet", "width": 8, "num_steps": 2}}
    assert "the probe is convnet of width 8, the student convnet of width 4" in run(
        folder, settings(HARD, **wide), "bank"
    )
    assert "the probe is" not in (work / "log").read_text()
    values = settings(HARD, **ROUNDS)
    values["search"]["arm"] = "filter_hard"
    with pytest.raises(ConfigError, match="'filter_hard' has hard fakes"):
        check_space(searched_config(values))


def test_scalars_by_the_authors_settings_have_rounds_too(tmp_path: Path) -> None:
    """A bound for each label, which rises while fakes are drawn, one pass, a strict filter; members that disagree."""
    values = tiny("chairs")
    values["teacher"] |= {"num_steps": 10, "members": 2}
    values["cgan"] |= {"num_steps": 3}
    values["cgan"]["label_input"] |= {"image_steps": 3, "label_steps": 4, "batch_size": 8}
    values["ratio"] |= {"feature_steps": 8}
    values["bank"] |= {"bound_scope": "label", "bound": "running", "bound_quantile": 1.0, "filter_scope": "global"}
    values["bank"] |= {"filter_strict": True, "refill": False, "num_fakes": 400, "burn_in": 20, "replace": True}
    values["bank"] |= {"rounds": 2, "probe": {"net": "convnet", "width": 4, "num_steps": 5}}
    arms = {"filter": FILTER | {"replace": True}}
    values["student"] |= {"arms": {"real": {}} | arms | {"hard": arms["filter"] | {"hard": True}}}
    run(tmp_path, values, "prepare", "teacher", "cgan", "ratio", "bank")
    pool = read_pool_scores(tmp_path / "artifacts/pool.h5")
    counts = [
        torch.unique(pool["asked"][pool[flag].bool()], return_counts=True) for flag in ("in_filter", "in_hard_filter")
    ]
    report = numbers(tmp_path, "bank")
    if "hard_filter.missing" not in report:
        assert torch.equal(counts[0][0], counts[1][0]) and torch.equal(counts[0][1], counts[1][1])
    assert 0 < report["hard_filter.kept"] == report["filter.kept"] - report.get("hard_filter.missing", 0)
    assert "teacher_spread" in pool and set(pool["round"].tolist()) == {1, 2}
    draws = int((pool["round"] == 2).sum())
    assert report["hard_filter.draws"] == draws and 0 < report["hard_filter.acceptance"] <= 1
    assert hard.PARENT_SHARE == 0.25
