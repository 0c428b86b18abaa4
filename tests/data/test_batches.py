from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.config import ConfigError
from cgankd.data.batches import Batch, EvenStream, Mixture, Stream, TwoSources
from cgankd.types import Split


def split(num: int, first: int = 0) -> Split:
    """Every image and label carries its own row number."""
    rows = torch.arange(first, first + num)
    return Split(rows.to(torch.uint8)[:, None, None, None].expand(num, 1, 2, 2).contiguous(), rows)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**40))
def test_every_epoch_visits_every_row_once(num_rows: int, count: int, seed: int) -> None:
    stream = Stream(num_rows, "real", seed)
    epochs = 3
    calls = -(-epochs * num_rows // count)
    walk = torch.cat([stream.rows(step * count, count) for step in range(calls)])[: epochs * num_rows]
    for epoch in walk.split(num_rows):
        assert epoch.sort().values.tolist() == list(range(num_rows))


def test_epochs_differ_and_streams_of_another_name_or_seed_differ() -> None:
    first, second = Stream(50, "real", 1).rows(0, 100).split(50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Stream(50, "bank", 1).rows(0, 50))
    assert not torch.equal(first, Stream(50, "real", 2).rows(0, 50))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([None, 0.2, 0.5, 0.7]),
    st.integers(4, 40),
    st.lists(st.integers(0, 50), min_size=1, max_size=5),
)
def test_batches_are_pure_in_step_and_have_the_right_counts(
    num_real: int, num_fake: int, share: float | None, batch_size: int, steps: list[int]
) -> None:
    real, bank = split(num_real), split(num_fake, first=100)
    used = Mixture(real, bank, real_share=share, batch_size=batch_size, seed=5)
    for step in steps:
        batch = used.batch(step)
        fresh = Mixture(real, bank, real_share=share, batch_size=batch_size, seed=5).batch(step)
        assert same(batch, fresh)
        assert len(batch.index_B) == batch_size
        if share is not None:
            assert int((~batch.is_fake_B).sum()) == round(share * batch_size)
        both = torch.cat([real.labels, bank.labels])
        assert torch.equal(batch.labels_B, both[batch.index_B])
        assert torch.equal(batch.images_BCHW[:, 0, 0, 0].long(), batch.labels_B)
        assert torch.equal(batch.is_fake_B, batch.index_B >= num_real)


def test_concatenation_is_one_stream_over_all_rows() -> None:
    mixture = Mixture(split(7), split(5, first=100), real_share=None, batch_size=4, seed=1)
    seen = torch.cat([mixture.batch(step).index_B for step in range(3)])
    assert seen.sort().values.tolist() == list(range(12))


def test_without_a_bank_all_rows_are_real_and_a_batch_may_exceed_the_split() -> None:
    mixture = Mixture(split(5), None, real_share=0.5, batch_size=13, seed=1)
    batch = mixture.batch(4)
    assert len(batch.labels_B) == 13 and not bool(batch.is_fake_B.any())
    assert torch.bincount(batch.index_B, minlength=5).min() >= 1


def test_arms_of_one_seed_see_the_real_images_in_one_order() -> None:
    real = split(20)
    alone = Mixture(real, None, real_share=None, batch_size=8, seed=3)
    mixed = Mixture(real, split(9, first=100), real_share=0.5, batch_size=16, seed=3)
    for step in range(6):
        batch = mixed.batch(step)
        assert torch.equal(alone.batch(step).index_B, batch.index_B[~batch.is_fake_B])


@pytest.mark.parametrize(
    ("real", "bank", "share", "words"),
    [
        (split(0), None, None, "training split is empty"),
        (split(3), split(0), None, "bank.num_fakes"),
        (split(3), split(3), 0.01, "student.real_share 0.01"),
        (split(3), split(3), 0.99, "student.real_share 0.99"),
    ],
)
def test_errors(real: Split, bank: Split | None, share: float | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Mixture(real, bank, real_share=share, batch_size=8, seed=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 30), st.integers(0, 2**40))
def test_in_even_walks_each_group_comes_equally_often(sizes: list[int], count: int, seed: int) -> None:
    group_N = torch.repeat_interleave(torch.arange(len(sizes)) * 3, torch.tensor(sizes))
    group_N = group_N[torch.randperm(len(group_N), generator=torch.Generator().manual_seed(len(group_N)))]
    walk, rounds = EvenStream(group_N, "real", seed), 2 * max(sizes)
    calls = -(-rounds * len(sizes) // count)
    rows = torch.cat([walk.rows(step * count, count) for step in range(calls)])[: rounds * len(sizes)]
    for one in group_N[rows].split(len(sizes)):
        assert one.sort().values.tolist() == (torch.arange(len(sizes)) * 3).tolist()
    for place, size in enumerate(sizes):  # within a group every image comes before one comes again
        own = rows[group_N[rows] == 3 * place]
        assert all(len(set(epoch.tolist())) == len(epoch) for epoch in own.split(size))
    again = EvenStream(group_N, "real", seed).rows(5, count)
    assert torch.equal(again, torch.cat([walk.rows(5 + place, 1) for place in range(count)]))


@pytest.mark.parametrize("share", [None, 0.5])
def test_even_batches_balance_real_images_and_fakes(share: float | None) -> None:
    """Eight real images of class 0 and one of class 1; twelve fakes of class 1 and two of class 0."""
    real, bank = split(9), split(14, first=100)
    real = Split(real.images, torch.tensor([0] * 8 + [1]))
    bank = Split(bank.images, torch.tensor([1] * 12 + [0] * 2))
    mixture = Mixture(real, bank, real_share=share, batch_size=8, seed=3, groups=lambda label_N: label_N)
    for step in range(20):
        batch = mixture.batch(step)
        assert batch.labels_B.bincount().tolist() == [4, 4]
        if share is not None:
            assert batch.labels_B[batch.is_fake_B].bincount().tolist() == [2, 2]
    alone = Mixture(real, None, real_share=share, batch_size=8, seed=3, groups=lambda label_N: label_N)
    assert alone.batch(7).labels_B.bincount().tolist() == [4, 4]
    if share is not None:  # arms with and without fakes see the same real images in the same order
        first = torch.cat([mixture.batch(step).index_B[:4] for step in range(2)])
        assert torch.equal(first, alone.batch(0).index_B)


@pytest.mark.parametrize(
    ("share", "batch", "counts"), [(0.5, 8, (4, 2, 2)), (0.5, 10, (5, 3, 2)), (0.25, 4, (1, 2, 1))]
)
def test_fakes_and_unlabelled_images_halve_what_is_left_whatever_their_numbers(
    share: float, batch: int, counts: tuple[int, int, int]
) -> None:
    """The real rows are those of an arm without either, in their order; each source goes through its own epochs."""
    real, both = split(10), split(90, first=100)
    bank = TwoSources(both.images, both.labels, edge=6)
    mixed = Mixture(real, bank, real_share=share, batch_size=batch, seed=3)
    alone = Mixture(real, split(6, first=100), real_share=share, batch_size=batch, seed=3)
    seen = []
    for step in range(30):
        found = mixed.batch(step)
        rows = found.index_B
        parts = [(rows < 10).sum(), ((rows >= 10) & (rows < 16)).sum(), (rows >= 16).sum()]
        assert tuple(map(int, parts)) == counts
        assert torch.equal(found.index_B[: counts[0]], alone.batch(step).index_B[: counts[0]])
        assert torch.equal(found.labels_B[counts[0] :], rows[counts[0] :] - 10 + 100)
        seen += rows[rows >= 16].tolist()
    first = seen[:84]
    assert len(set(first)) == len(first), "no unlabelled image twice before all have come"


def test_two_sources_need_some_of_both_and_room_for_them() -> None:
    both = split(20)
    for edge, batch in ((0, 8), (20, 8), (10, 2)):
        with pytest.raises(ConfigError, match="fakes and unlabelled images needs some of both"):
            Mixture(split(5), TwoSources(both.images, both.labels, edge), real_share=0.5, batch_size=batch, seed=0)
    together = Mixture(split(5), TwoSources(both.images, both.labels, 10), real_share=None, batch_size=25, seed=0)
    assert sorted(together.batch(0).index_B.tolist()) == list(range(25)), "all images equally often"
