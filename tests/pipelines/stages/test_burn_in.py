"""A burn-in drawn once serves every cut made under the same networks and code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cgankd.bank.selections import Columns
from cgankd.fit.device import PLAIN, Plan
from pipelines.stages.burn_in import burn_in_mark, kept_burn_in
from tests.bank.toys import bank_config

COLUMNS = Columns(torch.tensor([0, 0, 1]), torch.rand(3), torch.rand(3), torch.rand(3))


class Drawer:
    """Counts how often a burn-in is drawn."""

    def __init__(self, columns: Columns = COLUMNS) -> None:
        self.count, self.columns = 0, columns

    def __call__(self) -> Columns:
        self.count += 1
        return self.columns


@pytest.mark.parametrize("spread", [None, torch.rand(3)])
def test_the_second_time_nothing_is_drawn(tmp_path: Path, spread: torch.Tensor | None) -> None:
    columns = dataclasses.replace(COLUMNS, spread=spread)
    draw, said = Drawer(columns), list[str]()
    for _ in range(2):
        found = kept_burn_in(tmp_path / "burn-in.safetensors", "mark", draw, said.append)
        assert (found.spread is None) == (spread is None)
        names = [f.name for f in dataclasses.fields(Columns) if getattr(columns, f.name) is not None]
        assert all(torch.equal(getattr(found, name), getattr(columns, name)) for name in names)
    assert draw.count == 1 and said == ["burn-in: 3 scored draws of an earlier run are used again"]


def test_another_mark_or_a_damaged_file_draws_again(tmp_path: Path) -> None:
    draw, path = Drawer(), tmp_path / "burn-in.safetensors"
    for mark in ("one", "two"):
        kept_burn_in(path, mark, draw, lambda text: None)
    assert draw.count == 2
    path.write_bytes(b"damaged")
    kept_burn_in(path, "two", draw, lambda text: None)
    kept_burn_in(path, "two", draw, lambda text: None)
    assert draw.count == 3


@pytest.mark.parametrize(
    "change",
    [
        {"rho": 0.5},
        {"num_fakes": 7},
        {"bound_quantile": 0.95},
        {"subsample": False},
        {"refill": False},
        {"bound": "running"},
    ],
)
def test_the_mark_ignores_how_the_bank_is_cut(change: dict[str, object]) -> None:
    cfg = bank_config()
    mark = burn_in_mark(cfg, PLAIN, 1, {"cgan": "a"})
    assert burn_in_mark(dataclasses.replace(cfg, **change), PLAIN, 1, {"cgan": "a"}) == mark  # type: ignore[arg-type]


def test_the_mark_follows_the_kind_of_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of fakes that survive a kill go by the same mark."""
    cfg, there = bank_config(), torch.cpu._is_amx_tile_supported()
    mark = burn_in_mark(cfg, PLAIN, 1, {"cgan": "a"})
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not there)
    assert burn_in_mark(cfg, PLAIN, 1, {"cgan": "a"}) != mark


def test_the_mark_follows_what_the_draws_depend_on() -> None:
    cfg = bank_config()
    marks = {
        burn_in_mark(cfg, PLAIN, 1, {"cgan": "a"}),
        burn_in_mark(cfg, PLAIN, 2, {"cgan": "a"}),
        burn_in_mark(cfg, PLAIN, 1, {"cgan": "b"}),
        burn_in_mark(cfg, Plan(compile="on"), 1, {"cgan": "a"}),
        burn_in_mark(dataclasses.replace(cfg, burn_in=cfg.burn_in + 1), PLAIN, 1, {"cgan": "a"}),
    }
    assert len(marks) == 5
