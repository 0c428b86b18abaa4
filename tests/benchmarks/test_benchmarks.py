"""Every benchmark runs at quick sizes and its results agree; no time is looked at."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import bank_scale, digit_fakes, distillers, final_metric, plain, profile, sampling_steps, sides, timing
from benchmarks.subjects import gan_config, generator_net
from cgankd.data.pixels import signed_to_u8
from cgankd.distill.methods import METHODS
from cgankd.rng import generator
from pipelines.files.params import load_config


@pytest.mark.parametrize("name", bench.NAMES)
def test_both_sides_run_and_agree(name: str) -> None:
    case = importlib.import_module(f"benchmarks.{name}").CASE
    assert case.name == name
    found = timing.compare(case, True)
    assert all(a["holds"] for a in found["agreement"]), found["agreement"]
    for side in ("plain", "fast"):
        assert found[side]["min_s"] <= found[side]["median_s"] <= found[side]["max_s"]
        assert found[side]["images_per_s"] > 0 and math.isfinite(found["ratio"])
        assert found[side]["flop"] > 0 or name == "vicinity_search"
        assert case.repeats[side] >= 3
    assert timing.line(found).count("|") == timing.HEADER.splitlines()[0].count("|")


def test_the_scale_of_a_bank_has_a_row_a_size() -> None:
    found = bank_scale.compare(True)
    assert [row["fakes"] for row in found["rows"]] == list(bank_scale.QUICK_SIZES)
    assert all(row["draws"] >= row["fakes"] and row["peak_rss_mb"] > 0 for row in found["rows"])
    assert len(bank_scale.table(found).splitlines()) == 2 + len(bank_scale.QUICK_SIZES)


def test_the_cost_of_a_kd_loss_is_beside_that_of_plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    every = distillers.losses
    kept = ("plain", "kd", "takd", "sskd", "crd (num_negatives=1024)", "sdd", "cat_kd", "reg_kd", "soap_kd")
    kept = (*kept, "plain, scalar labels")
    monkeypatch.setattr(distillers, "losses", lambda cfg: {k: v for k, v in every(cfg).items() if k in kept})
    found = distillers.compare(True)
    assert [row["name"] for row in found["rows"]] == [
        name for name in every(load_config(distillers.PRESET)) if name in kept
    ]
    assert {label.split(" ")[0].rstrip(",") for label in every(load_config(distillers.PRESET))} == {"plain", *METHODS}
    assert found["rows"][0]["ratio"] == found["rows"][-1]["ratio"] == 1.0 and all(
        row["step_s"] > 0 for row in found["rows"]
    )
    assert {row["name"] for row in found["rows"] if row["phases_s"] > 0} == {"takd", "sskd"}
    assert len(distillers.table(found).splitlines()) == 2 + len(kept)


def test_a_result_that_disagrees_ends_with_one_and_a_slow_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    side = {"min_s": 1.0, "median_s": 1.0, "max_s": 1.0, "images_per_s": 1.0, "note": "", "peak_rss_mb": 1.0}
    row = {"name": "sampling", "title": "t", "quick": True, "plain": side, "fast": side, "ratio": 1.0, "target": 15.0}
    agreement = {"what": "pixels", "value": 0.1, "tolerance": 0.2, "holds": True}
    monkeypatch.setattr(bench, "facts", lambda: {"date": "2026-01-01", "peak_gflops": {}})
    monkeypatch.setattr(bench, "finish", lambda rows, peaks: rows[0].__setitem__("target_here", 0.5) or peaks)
    for holds, quick, code in ((True, True, 0), (False, True, 1), (True, False, 0)):
        found = row | {"agreement": [agreement | {"holds": holds}]}
        monkeypatch.setattr(bench, "compare", lambda case, quick, found=found: found)
        assert bench.run(["sampling"], quick, None) == code
        said = capsys.readouterr().err
        assert ("below their target: sampling" in said) is not quick and "target here: " not in said


def test_a_row_that_fails_is_a_row_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "facts", lambda: {"date": "2026-01-01"})
    real = timing.compare

    def compare(case: timing.Case, quick: bool) -> dict[str, object]:
        if case.name == "sampling":
            raise sides.Failed("sampling --part fast: RuntimeError: a | b")
        return real(case, True)

    monkeypatch.setattr(bench, "compare", compare)
    monkeypatch.setattr(bank_scale, "compare", lambda quick: 1 / 0)
    assert bench.run(["sampling", "vicinity_search", "bank_scale"], True, tmp_path) == 1
    page = capsys.readouterr().out
    failed = next(text for text in page.splitlines() if "FAILED: Failed: sampling" in text)
    assert failed.count("|") == timing.HEADER.splitlines()[0].count("|")
    assert "Vicinity search" in page and "FAILED: ZeroDivisionError" in page
    written = json.loads(next(tmp_path.glob("results-2026-01-01-*.json")).read_text())
    assert [row["name"] for row in written["rows"]] == ["sampling", "vicinity_search"]
    assert next(tmp_path.glob("results-2026-01-01-*.md")).read_text() == page.removesuffix("\n")


def test_a_child_that_ends_badly_tells_its_last_line() -> None:
    with pytest.raises(sides.Failed, match="no_such_benchmark --part fast: .*No module named"):
        sides.child("no_such_benchmark", ["--part", "fast"], large_blocks=False)


def test_the_final_metric_is_unchanged_where_its_whole_interval_is_small() -> None:
    same = final_metric.row("s", [5.0, 6.0, 7.0], [5.5, 5.6, 7.1])
    # Mean difference 0.2 / 3, t_2 = 4.3027.
    half = 4.302652729911275 * 0.4509249752822894 / math.sqrt(3)
    assert same["low"] == pytest.approx(0.2 / 3 - half) and same["high"] == pytest.approx(0.2 / 3 + half)
    assert same["holds"] and final_metric.row("s", [5.0, 6.0, 7.0], [5.9, 6.9, 7.9])["holds"]
    assert not final_metric.row("s", [5.0, 6.0, 7.0], [8.0, 9.0, 10.1])["holds"]
    assert not final_metric.row("s", [5.0, 6.0, 7.0], [5.0, 9.0, 16.0])["holds"]  # Its interval contains 0, and 10.


def test_a_bank_is_flat_where_neither_time_nor_memory_grows() -> None:
    small = {"fakes": 10.0, "seconds": 1.0, "peak_rss_mb": 100.0}
    assert bank_scale.is_flat([small, {"fakes": 1000.0, "seconds": 140.0, "peak_rss_mb": 300.0}])
    assert not bank_scale.is_flat([small, {"fakes": 1000.0, "seconds": 160.0, "peak_rss_mb": 300.0}])
    assert not bank_scale.is_flat([small, {"fakes": 1000.0, "seconds": 100.0, "peak_rss_mb": 400.0}])


def test_what_each_measure_brings_and_where_the_time_goes() -> None:
    found = sampling_steps.compare(True)
    assert len(sampling_steps.table(found).splitlines()) == 2 + len(sampling_steps.STEPS)
    images = [
        sampling_steps.make(way, True)(torch.arange(8), generator("s")).float() for way in sampling_steps.STEPS.values()
    ]
    assert all(timing.relative_error(one - 127.5, images[0] - 127.5) < 0.05 for one in images[1:])
    row = profile.shares("sampling", True)
    assert sum(row["shares"].values()) == pytest.approx(1.0) and row["shares"]["convolutions and matrix products"] > 0
    assert profile.kind_of("aten::mkldnn_convolution") == "convolutions and matrix products"
    assert len(profile.table({"rows": [row]}).splitlines()) == 3


def test_rows_of_the_day_that_are_not_run_again_stay(tmp_path: Path) -> None:
    about = {"machine": "m", "cores": 2, "threads": 2, "torch": "2", "python": "3", "minutes": 5.0}
    rows = [{"name": "sampling"}, {"name": "features"}, {"name": "of old"}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"about": about, "rows": rows, "tables": {"bank_scale": {}, "profile": {}}}))
    kept = bench.earlier(path, about, ["features", "profile"])
    assert kept == {"rows": [{"name": "sampling"}], "tables": {"bank_scale": {}}, "minutes": 5.0}
    assert bench.earlier(path, about | {"torch": "3"}, [])["rows"] == []
    assert bench.earlier(tmp_path / "none.json", about, [])["rows"] == []


def test_the_final_metric_runs_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = final_metric.compare(True)
    rows = {row["name"]: row for row in found["rows"]}
    assert len(rows) == 5 and all(len(row[side]) == 2 for row in rows.values() for side in ("plain", "fast"))
    assert len(final_metric.table(found).splitlines()) == 7
    # A change of method may differ, and says so; arithmetic and pool may not.
    bad = {name: [50.0] * 8 for name in rows}
    for name in rows:
        monkeypatch.setattr(
            final_metric, "child", lambda module, words, large_blocks, name=name: (
                bad if not large_blocks else bad | {name: [0.0] * 8}
            ),
        )  # fmt: skip
        found = final_metric.compare(False)
        assert found["holds"] == (name == final_metric.VIEW)
        assert ("no, another method" if name == final_metric.VIEW else "| NO |") in final_metric.table(found)


def test_one_gan_has_the_same_weights_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, list[tuple[int, str, dict[str, torch.Tensor]]]] = {"plain": [], "fast": []}
    pools: dict[str, list[dict[str, int]]] = {"plain": [], "fast": []}
    real, fakes = final_metric.Gan, final_metric.subsampled_fakes
    for side in ("plain", "fast"):

        def gan(data: Any, task: Any, seed: int, way: digit_fakes.Way, side: str = side) -> Any:
            found = real(data, task, seed, way)
            made[side].append((seed, way.precision, found.net.state_dict()))
            return found

        def drawn(*args: Any, side: str = side) -> Any:
            pools[side].append(args[5] if len(args) > 5 else digit_fakes.POOL)
            return fakes(*args)

        monkeypatch.setattr(final_metric, "Gan", gan)
        monkeypatch.setattr(final_metric, "subsampled_fakes", drawn)
        final_metric.errors(side, True)  # type: ignore[arg-type]
    (seed, precision, plain_net), (_, other, fast_net) = made["plain"][0], made["fast"][0]
    assert (seed, precision, other) == (0, "fp32", "fp32")
    assert all(torch.equal(plain_net[name], fast_net[name]) for name in plain_net)
    assert {precision for _, precision, _ in made["fast"][1:]} == {"bf16"}
    assert pools["plain"][-1] == {"pool_size": 64, "pool_refresh_steps": 1}
    long = pools["fast"][-1]
    assert digit_fakes.BATCH * long["pool_refresh_steps"] / long["pool_size"] == 12.5


def test_relative_error_is_that_of_the_whole() -> None:
    assert timing.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_a_loop_is_timed_without_its_warm_up_and_its_last_step() -> None:
    asked = []

    def loop(steps: int, log: object) -> None:
        asked.append(steps)
        for step in range(steps):
            log(step, {}, steps)  # type: ignore[operator]

    assert len(timing.of_loop(loop)(2, 5)) == 5 and asked == [8]


def test_the_plain_sampler_is_the_generator_itself() -> None:
    cfg = gan_config("biggan", quick=True)
    net, label_B = generator_net(cfg, 16), torch.arange(4)
    embed = torch.nn.Embedding(10, cfg.embed_dim)
    found = plain.sampler(net, embed, cfg.z_dim)(label_B, generator("plain"))
    z_BZ = torch.randn(4, cfg.z_dim, generator=generator("plain"))
    with torch.no_grad():
        expected = signed_to_u8(net(z_BZ, embed(label_B)))
    assert int((found.int() - expected.int()).abs().max()) <= 1
