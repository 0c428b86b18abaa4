"""Two gloo ranks compute what one process does: losses of fifty steps, weights, batch norms, dropout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from cgankd.fit.ranks import ALONE, ranks, rows_of_rank, spread
from tests.fit.ranked import JOBS, on_rank


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks found in all jobs."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(on_rank, (2, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def gap(ours: list[float], theirs: list[float]) -> float:
    """The largest difference, relative to losses above 1."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", JOBS)
def test_two_ranks_compute_what_one_does(two: Path, name: str) -> None:
    number = list(JOBS).index(name)
    first, second = (loaded(two / f"{number}-{rank}.pt") for rank in (0, 1))
    alone = JOBS[name]()
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in alone["state"]), (
        "all ranks have one net"
    )
    losses = [key for key in alone["values"] if "loss" in key or key in ("hard", "floor", "label", "reconstruct")]
    assert losses and first["values"].keys() == alone["values"].keys()
    for key in losses:
        # ifm takes the root of an image's distance to itself, which is rounding and little else.
        assert gap(first["values"][key], alone["values"][key]) < (3e-3 if key == "ifm loss" else 1e-4), key
    ours, theirs = (
        torch.cat([run["state"][key].double().flatten() for key in alone["state"]]) for run in (first, alone)
    )
    # Adam makes steps of one size out of gradients that are nothing but rounding, so single weights may differ by more.
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_rows_are_cut_evenly_and_all_are_there() -> None:
    for total in (5, 8, 17):
        for size in (1, 2, 3, 5):
            cut = [rows_of_rank(total, rank, size) for rank in range(size)]
            assert [row for rows in cut for row in range(total)[rows]] == list(range(total))
            lengths = [rows.stop - rows.start for rows in cut]
            assert max(lengths) - min(lengths) <= 1


def test_alone_nothing_is_there() -> None:
    net = torch.nn.Linear(2, 2)
    assert ranks() == ALONE and spread(net) is net
