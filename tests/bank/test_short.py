"""A bank whose fakes run out: it takes what passed, the other labels stay as they were, and the cause is counted right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.bank.build import Conditions, EmptyBankError, Limits, Scorer, Scores, Source, arrange, burn_in, grow_pool
from cgankd.bank.selections import Columns, select
from cgankd.bank.short import NAMED, Short, percent, short_lines, short_report, shortages
from cgankd.config import BankConfig
from cgankd.gan.own_images import ImageDraw
from cgankd.rng import generator
from cgankd.types import Split
from tests.bank.test_build import class_teacher, columns_of, draw, rare, ratio, scalar_teacher
from tests.bank.toys import bank_config, class_task, scalar_task

TASK = class_task(2)
Grown = tuple[list[Scores], Columns, Limits, Conditions]


def grow(cfg: BankConfig, names: tuple[str, ...], score_ratio: object = ratio, source_of: object = draw) -> Grown:
    source = Source(
        Scorer(source_of, score_ratio, class_teacher, TASK), arrange(TASK, torch.arange(2), cfg, seed=0), cfg, 0
    )
    limits = burn_in(source)
    blocks = list(grow_pool(source, limits, names))
    return blocks, columns_of(blocks, TASK), limits, source.conditions


def short(cfg: BankConfig, names: tuple[str, ...], **kwargs: object) -> tuple[list[Short], dict[str, Tensor], Grown]:
    grown = grow(cfg, names, **kwargs)
    _, columns, limits, conditions = grown
    rows = {name: select(name, columns, limits, conditions.quota_G) for name in names}
    return shortages(columns, limits, conditions, cfg, rows), rows, grown


def test_a_label_whose_draws_run_out_keeps_what_passed_and_is_counted_by_numpy() -> None:
    cfg = bank_config(num_fakes=80, max_draws_factor=5.0)
    found, rows, (_, columns, limits, _) = short(cfg, ("raw", "subsample"), score_ratio=rare)
    group, r, u = (column.double().numpy() for column in (columns.group, columns.ratio, columns.uniform))
    passes = (u <= r / limits.bound_G.numpy()[group.astype(int)]) & (group == 1)
    assert 0 < passes.sum() < 40 and (group == 1).sum() == 200
    (one,) = found
    assert (one.selection, one.where, one.have, one.quota, one.drawn) == ("subsample", "label 1", passes.sum(), 40, 200)
    assert one.cause == "draws" and one.passed == one.accepted == pytest.approx(passes.sum() / 200)
    assert torch.bincount(columns.group[rows["subsample"]]).tolist() == [40, passes.sum()]
    assert torch.bincount(columns.group[rows["raw"]]).tolist() == [40, 40]
    text = " ".join(short_lines(found, cfg))
    need = int(np.ceil(1.2 * 5.0 * 40 / passes.sum()))
    assert f"{passes.sum()} of 40 fakes for label 1 in selection 'subsample': after 200 draws" in text
    assert f"bank.max_draws_factor (about {need} is needed)" in text and "the others keep their quotas" in text
    assert "bank.rho" not in text, "the selection does not filter"
    report = short_report(found)
    assert report["subsample.missing"] == 40 - passes.sum() and report["short.labels"] == 1
    assert report["short.draws"] == 200 and report["short.source_ended"] == 0


def test_the_other_labels_are_the_same_rows_whether_one_runs_out_or_not() -> None:
    def kept(factor: float) -> dict[int, bytes]:
        cfg = bank_config(num_fakes=80, max_draws_factor=factor)
        blocks, columns, limits, conditions = grow(cfg, ("subsample",), rare)
        rows = select("subsample", columns, limits, conditions.quota_G)
        images, group = torch.cat([b.images for b in blocks])[rows], columns.group[rows]
        return {label: images[group == label].numpy().tobytes() for label in (0, 1)}

    scarce, plenty = kept(5.0), kept(1000.0)
    assert scarce[0] == plenty[0] and len(scarce[1]) < len(plenty[1]) and plenty[1].startswith(scarce[1])


def test_nothing_is_missing_where_nothing_ran_out() -> None:
    cfg = bank_config(num_fakes=80)
    found, _, _ = short(cfg, ("raw", "filter"))
    assert found == [] and short_lines(found, cfg) == [] and short_report(found) == {}
    once = dataclasses.replace(cfg, refill=False)
    assert short(once, ("raw", "filter"))[0] == [], "one pass has no quota"


def test_a_dead_label_is_named_and_a_selection_without_any_fake_is_an_error() -> None:
    def dead(images: Tensor, label_B: Tensor) -> Tensor:
        return torch.where(label_B == 1, ratio(images, label_B), 0.0)

    found, rows, (_, columns, _, _) = short(bank_config(num_fakes=80), ("subsample",), score_ratio=dead)
    assert [(one.where, one.have, one.drawn, one.cause) for one in found] == [("label 0", 0, 0, "ratio")]
    assert columns.group.unique().tolist() == [1] and len(rows["subsample"]) == 40
    said = found[0].says(bank_config())
    assert "all burn-in ratios there are zero" in said and "ratio.ratio_penalty" in said and "cgan.num_steps" in said
    assert "bank." not in said, "no bound and no cutoff helps where M1 accepts nothing"
    own = found[0].says(bank_config(), own=True)
    assert "cgan.num_steps" not in own and "a source whose images are nearer" in own

    late = iter(range(10**6))
    with pytest.raises(EmptyBankError, match=r"nothing passes selection 'subsample' among the 160 fakes drawn"):
        # Ratios above zero in the burn-in alone.
        grow(
            bank_config(num_fakes=80, burn_in=32, max_draws_factor=2.0),
            ("subsample",),
            lambda images, label_B: torch.full((len(images),), 1.0 if next(late) < 2 else 0.0),
        )


def stock(counts: list[int]) -> ImageDraw:
    """So many images of each of two classes, all different."""
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    images = draw(labels, generator("stock"))
    return ImageDraw(Split(images, labels), TASK.filter_groups, 0.0, reuse=False, source="fakes")


@pytest.mark.parametrize("have", [1, 31, 32, 33, 64, 70])
def test_a_finite_source_ends_and_each_image_of_it_is_taken_once(have: int) -> None:
    cfg = bank_config(num_fakes=160, burn_in=50)
    found, rows, (blocks, columns, _, _) = short(cfg, ("raw",), source_of=stock([have, 500]))
    assert torch.bincount(columns.group[rows["raw"]]).tolist() == [have, 80]
    mine = torch.cat([b.images for b in blocks])[columns.group == 0]
    assert len({image.numpy().tobytes() for image in mine}) == have
    (one,) = found
    assert (one.have, one.quota, one.drawn, one.cause) == (have, 80, have, "source")
    assert "all that the source has" in one.says(cfg) and "add images to the source" in one.says(cfg)


def test_a_source_that_holds_enough_gives_the_blocks_it_always_gave() -> None:
    """Block by block what a plain deal of the group's images gives."""
    blocks, _, _, _ = grow(bank_config(num_fakes=160, burn_in=50), ("raw",), source_of=stock([90, 500]))
    plain = stock([90, 500])
    for group in (0, 1):
        drawn = torch.cat([b.images for b in blocks if int(b.asked[0]) == group])
        assert torch.equal(drawn, plain(torch.full((len(drawn),), group), generator("any")))


def test_labels_of_a_bin_that_still_have_images_are_served_when_another_has_none() -> None:
    """Scalars: images near one end of the bin only; every one is taken, whatever label they are asked for."""
    task, cfg = scalar_task(num_conditions=40, label_bin=5.0), bank_config(num_fakes=400, burn_in=20)
    labels = torch.cat([torch.full((25,), 0.3), torch.linspace(5.0, 10.0, 900)])
    source = ImageDraw(
        Split(draw(labels, generator("s")), labels), task.filter_groups, 0.4, reuse=False, source="fakes"
    )
    asked = task.conditions(labels)
    everything = Source(Scorer(source, ratio, scalar_teacher, task), arrange(task, asked, cfg, seed=0), cfg, 0)
    blocks = list(grow_pool(everything, burn_in(everything), ["raw"]))
    low = torch.cat([b.asked for b in blocks if float(b.asked[0]) < 5])
    assert len(low) == 25 and float((low - 0.3).abs().max()) <= 0.4


def test_only_the_emptiest_are_named() -> None:
    cfg = bank_config()
    many = [Short("raw", f"label {i}", i, 30, 100, "draws", 0.5, i / 100) for i in range(7)]
    lines = short_lines(many, cfg)
    assert len(lines) == NAMED + 2 and lines[0].startswith("0 of 30 fakes for label 0")
    assert lines[NAMED] == "and 4 more labels or selections lack fakes"


def test_shares_are_written_as_people_read_them() -> None:
    assert [percent(x) for x in (1.0, 0.1234, 0.0996, 0.0994, 0.01, 0.0004, 0.0)] == [
        *("100 %", "12 %", "10 %", "9.9 %", "1 %", "0.04 %", "0 %")
    ]
