"""Unlabelled images on the way of fakes: the teacher's label and doubt, M1 and M2 over all there is, rows of a pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.bank import unlabelled
from cgankd.bank.selections import SELECTIONS, Columns
from cgankd.data.store.banks import BankWriter, of_fakes, read_pool_images, read_pool_scores
from cgankd.rng import generator
from cgankd.types import Diverged
from tests.bank.toys import bank_config, class_task, scalar_task

IMAGES = torch.randint(0, 256, (1100, 1, 4, 4), generator=generator("unlabelled"), dtype=torch.uint8)


def class_teacher(images: Tensor) -> Tensor:
    return images[:, 0, 1, :3].float() / 64


def scalar_teacher(images: Tensor) -> Tensor:
    return images[:, 0, 1, :1].float() / 255


def test_of_classes_the_label_is_the_likeliest_and_the_doubt_minus_log_of_its_probability() -> None:
    said = unlabelled.answers(IMAGES, class_teacher, class_task(3))
    logits = class_teacher(IMAGES).double().numpy()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    assert said.label.tolist() == logits.argmax(1).tolist() and said.label.dtype == torch.int64
    np.testing.assert_allclose(said.doubt.numpy(), -np.log((odds / odds.sum(1, keepdims=True)).max(1)), rtol=1e-5)
    assert said.output.dtype == torch.float16 and said.output.shape == (1100, 3)


def test_of_scalars_the_doubt_is_how_far_the_answer_moves_when_the_image_does() -> None:
    said = unlabelled.answers(IMAGES, scalar_teacher, scalar_task())
    x = np.pad(IMAGES[:, 0].double().numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    answer = 10 * x[:, 2, 1] / 255
    down_right, up_left = 10 * x[:, 1, 0] / 255, 10 * x[:, 3, 2] / 255
    np.testing.assert_allclose(said.label.numpy(), answer, rtol=1e-5)
    wanted = (np.abs(down_right - answer) + np.abs(up_left - answer)) / 2
    np.testing.assert_allclose(said.doubt.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_an_answer_that_is_no_number_names_the_stage() -> None:
    with pytest.raises(Diverged, match="teacher: NaN answers for 512 of 512 images"):
        unlabelled.answers(IMAGES, lambda images: torch.full((len(images), 3), float("nan")), class_task(3))
    with pytest.raises(Diverged, match="ratio: NaN for 1100 of 1100"):
        unlabelled.ratios(IMAGES, torch.zeros(1100), lambda images, y: torch.full((len(images),), float("nan")))


def test_everything_that_passes_is_taken_by_numpy() -> None:
    task, cfg = class_task(3), bank_config(num_fakes=3, rho=0.6, bound_quantile=0.95)
    said = unlabelled.answers(IMAGES, class_teacher, task)
    ratio = unlabelled.ratios(IMAGES, said.label, lambda images, y: images[:, 0, 0, 0].float() / 128)
    uniform = torch.rand(1100, generator=generator("u"))
    columns = Columns(said.label, ratio, said.doubt, uniform)
    _, rows = unlabelled.judged(columns, 3, cfg, list(SELECTIONS))
    r, u, doubt, label = (x.double().numpy() for x in (ratio, uniform, said.doubt, said.label))
    bound = np.array([np.quantile(r[label == g], 0.95) for g in range(3)])[label.astype(int)]
    accepted = (u <= r / bound) & (r > 0)
    assert rows["raw"].tolist() == list(range(1100)), "no quota"
    assert rows["subsample"].tolist() == np.flatnonzero(accepted).tolist()
    for name, among in (("filter_only", np.ones(1100, bool)), ("filter", accepted)):
        cut = np.array([np.quantile(doubt[among & (label == g)], 0.6, method="higher") for g in range(3)])
        assert rows[name].tolist() == np.flatnonzero(among & (doubt <= cut[label.astype(int)])).tolist()
    report = unlabelled.unlabelled_report(
        columns, unlabelled.judged(columns, 3, cfg, ["filter"])[0], {"filter": rows["filter"]}
    )
    counts = np.bincount(label[rows["filter"].numpy()].astype(int))
    assert report["unlabelled.images"] == 1100 and report["unlabelled.filter.kept"] == len(rows["filter"])
    assert report["unlabelled.filter.least_of_a_label"] == counts.min()
    assert report["unlabelled.filter.most_of_a_label"] == counts.max()


def test_their_rows_lie_behind_the_fakes_and_are_not_taken_for_some(tmp_path: Path) -> None:
    task = class_task(3)
    said = unlabelled.answers(IMAGES, class_teacher, task)
    pieces = list(unlabelled.pool_rows(IMAGES, said, torch.ones(1100), torch.rand(1100, generator=generator("u"))))
    assert [len(piece) for piece in pieces] == [512, 512, 76] and [int(p.shard[0]) for p in pieces] == [0, 1, 2]
    with BankWriter(tmp_path / "pool.h5", (1, 4, 4), 3, torch.int64) as writer:
        for piece in (pieces[2], *pieces):
            writer.append(piece)
        source = torch.tensor([0, 1], dtype=torch.uint8).repeat_interleave(torch.tensor([76, 1100]))
        flags = {name: (source == value).numpy() for name, value in (("in_raw", 0), ("unlabelled_raw", 1))}
        writer.set_columns({"source": source} | flags)
        writer.close({"cgan": "x"})
    scores = read_pool_scores(tmp_path / "pool.h5")
    assert torch.equal(read_pool_images(tmp_path / "pool.h5", (scores["source"] == 1).nonzero()[:, 0]), IMAGES)
    assert torch.equal(scores["asked"][76:], said.label) and torch.equal(scores["predicted"][76:], said.label)
    fakes = of_fakes(scores)
    assert set(fakes) == set(scores) - {"source", "unlabelled_raw"} and len(fakes["asked"]) == 76
    assert bool(fakes["in_raw"].all()) and of_fakes(fakes).keys() == fakes.keys()


def no_teacher(images_BCHW: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the outputs come with the disagreement, in one pass")


def test_the_disagreement_of_members_goes_with_the_images() -> None:
    def spreading(images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cat([class_teacher(images_BCHW), images_BCHW.double().mean((1, 2, 3)).float()[:, None]], dim=1)

    told: list[tuple[int, int]] = []
    said = unlabelled.answers(
        IMAGES, no_teacher, class_task(3), spreading, lambda done, values, total: told.append((done, total))
    )
    assert told[-1] == (len(IMAGES), len(IMAGES))
    alone = unlabelled.answers(IMAGES, class_teacher, class_task(3))
    assert torch.equal(said.output, alone.output) and torch.equal(said.label, alone.label)
    assert said.spread is not None and torch.equal(said.spread, IMAGES.double().mean((1, 2, 3)).float())
    rows = list(unlabelled.pool_rows(IMAGES, said, torch.ones(len(IMAGES)), torch.ones(len(IMAGES))))
    assert torch.equal(torch.cat([torch.as_tensor(piece.teacher_spread) for piece in rows]), said.spread)
