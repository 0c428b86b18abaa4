"""CRD: parity with torchdistill over steps, negatives of the queue, bounded and resumable state."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cgankd.distill.composite import CompositeDistiller
from cgankd.distill.losses import contrast
from cgankd.distill.losses.contrast import ContrastiveDistillation
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level


class Unit(nn.Module):
    """Stands in for the embedding: features are embeddings already."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def crd(num: int = 20, classes: int = 3, period: float | None = None, **options: object) -> ContrastiveDistillation:
    torch.manual_seed(0)
    method = ContrastiveDistillation(**{"num_negatives": 4, "embed_dim": 8, **options})  # type: ignore[arg-type]
    toys.built(method, toys.net(num_outputs=max(classes, 1)), toys.net("plain-vgg", 8, max(classes, 1)),
               toys.data(classes, num, period))  # fmt: skip
    method.embed_s, method.embed_t = Unit(), Unit()  # type: ignore[assignment]
    return method


@pytest.mark.parametrize("num", [20, 500])
def test_three_steps_are_those_of_torchdistill(num: int) -> None:
    ours = crd(num, contrast_weight=1.0)
    theirs = mid_level().CRDLoss("s", "e", "t", 8, num, 4, num)
    theirs.memory_v1.copy_(ours.kept_s)
    theirs.memory_v2.copy_(ours.kept_t)
    for step in range(3):
        b = toys.batch(6, negatives=4, total=num)
        s, t = (nn.functional.normalize(draw(6, 8, seed=step + k)) for k in (0, 10))
        assert b.index is not None and b.neg_index is not None
        supplement = {"pos_idx": b.index, "contrast_idx": torch.cat([b.index[:, None], b.neg_index], 1)}
        expected = theirs(io(s=s, e=supplement), io(t=t))
        value = ours.losses(toys.only(pooled=s), toys.only(pooled=t), b)["contrast"]
        assert torch.allclose(value, expected.squeeze(), rtol=1e-4)
        assert torch.allclose(ours.kept_s, theirs.memory_v1, atol=1e-6)
        assert torch.allclose(ours.kept_t, theirs.memory_v2, atol=1e-6)
    assert torch.allclose(torch.stack([ours.z_s, ours.z_t]), theirs.params[2:4], rtol=1e-5)


def test_the_queue_is_bounded_and_holds_the_latest_rows() -> None:
    method = crd(storage="queue", queue_size=10)
    assert not method.needs.neg_index and method.needs.index
    seen = []
    for step in range(3):
        b = replace(toys.batch(6), index=torch.arange(6) + 6 * step)
        s = nn.functional.normalize(draw(6, 8, seed=step))
        method.losses(toys.only(pooled=s), toys.only(pooled=s), b)
        seen.append(s)
    assert method.kept_s.shape == (10, 8)
    assert sorted(method.queue_index.tolist()) == list(range(8, 18))
    rows = {int(i): method.kept_s[k] for k, i in enumerate(method.queue_index)}
    assert all(torch.allclose(rows[i], torch.cat(seen)[i], atol=1e-6) for i in range(8, 18))


def test_a_batch_larger_than_the_queue_keeps_its_last_rows() -> None:
    method = crd(storage="queue", queue_size=4)
    b = toys.batch(6)
    assert b.index is not None
    s = nn.functional.normalize(draw(6, 8))
    method.losses(toys.only(pooled=s), toys.only(pooled=s), b)
    assert method.queue_index.tolist() == b.index[-4:].tolist()


def test_negatives_of_classes_and_of_scalars() -> None:
    index, y = torch.arange(4), torch.tensor([0.0, 0.0, 1.0, 2.0])
    keep = crd()._differ(index, y, index, y)
    assert torch.equal(keep, y[:, None] != y[None])
    labels = torch.tensor([0.0, 0.05, 0.5, 0.98])
    any_other = crd(classes=0)._differ(index, labels, index, labels)
    assert torch.equal(any_other, ~torch.eye(4, dtype=torch.bool))
    far = crd(classes=0, min_label_gap=0.1)._differ(index, labels, index, labels)
    assert not far[0, 1] and far[0, 2] and far[0, 3]
    circle = crd(classes=0, min_label_gap=0.1, period=1.0)._differ(index, labels, index, labels)
    assert not circle[0, 3] and circle[0, 2]


def test_the_queue_against_a_loop() -> None:
    method = crd(storage="queue", queue_size=10, contrast_weight=1.0, temperature=0.5).eval()
    b = toys.batch(5)
    u, v = (nn.functional.normalize(draw(5, 8, seed=k)) for k in (0, 3))
    value = float(method.losses(toys.only(pooled=u), toys.only(pooled=v), b)["contrast"])
    total = 0.0
    for own, other in ((u, v), (v, u)):
        columns = [[i] + [j for j in range(5) if b.y[j] != b.y[i]] for i in range(5)]
        score = [[float((own[i] @ other[j] / 0.5).exp()) for j in row] for i, row in enumerate(columns)]
        z = sum(map(sum, score)) / sum(map(len, score)) * 20
        for row in score:
            c = (len(row) - 1) / 20
            p = torch.tensor(row) / z
            total -= float((p[0] / (p[0] + c + 1e-7)).log() + (c / (p[1:] + c + 1e-7)).log().sum())
    assert value == pytest.approx(total / 5, rel=1e-4)


def test_state_carries_memory_and_normalisers() -> None:
    for storage in ("memory", "queue"):
        method, again = crd(storage=storage), crd(storage=storage)
        b = toys.batch(6)
        s, t = (nn.functional.normalize(draw(6, 8, seed=k)) for k in (0, 3))
        method.losses(toys.only(pooled=s), toys.only(pooled=t), b)
        again.load_state_dict(method.state_dict())
        values = [m.losses(toys.only(pooled=t), toys.only(pooled=s), b)["contrast"] for m in (method, again)]
        assert torch.equal(values[0], values[1])


def test_evaluation_moves_nothing() -> None:
    method = crd().eval()
    before = method.kept_s.clone()
    b, s = toys.batch(6), draw(6, 8)
    method.losses(toys.only(pooled=s), toys.only(pooled=s), b)
    assert torch.equal(before, method.kept_s)


def test_negatives_are_no_more_than_there_are() -> None:
    labels = torch.tensor([0] * 7 + [1] * 9 + [2] * 4)
    spec = replace(toys.data(3, 20), labels=labels)
    for num, data, expected in (
        (16384, spec, 11),  # 20 less the nine of the largest class
        (5, spec, 5),
        (16384, replace(spec, labels=torch.zeros(20)), 1),
        (16384, replace(spec, num_classes=0, labels=torch.rand(20)), 19),
    ):
        method = ContrastiveDistillation(num_negatives=num, embed_dim=8)
        toys.built(method, toys.net(), toys.net("plain-vgg", 8), data)
        assert method.num_negatives == expected
        both = CompositeDistiller([(1.0, ContrastiveDistillation(num_negatives=num, embed_dim=8))])
        toys.built(both, toys.net(), toys.net("plain-vgg", 8), data)
        assert both.num_negatives == expected


def test_products_taken_in_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    column = torch.randint(20, (6, 9), generator=torch.Generator().manual_seed(1))
    found = []
    for limit in (2**24, 45, 1):
        monkeypatch.setattr(contrast, "PRODUCTS", limit)
        u = nn.functional.normalize(draw(6, 8)).requires_grad_(True)
        method = crd(temperature=0.5)
        score = method._scores(u, method.kept_t, column)
        score.sum().backward()  # type: ignore[no-untyped-call]
        found.append((score.detach(), u.grad))
    plain = (
        torch.einsum("be,bke->bk", draw(6, 8) / draw(6, 8).norm(dim=1, keepdim=True), method.kept_t[column]) / 0.5
    ).exp()
    for score, grad in found:
        torch.testing.assert_close(score, plain)
        torch.testing.assert_close(grad, found[0][1])


@pytest.mark.parametrize("storage", ["memory", "queue"])
def test_negatives_of_the_other_source_do_not_count_within_source(storage: str) -> None:
    fake = torch.arange(20) % 2 == 1
    method = crd(storage=storage, relational_scope="within_source", num_negatives=8)
    method.data_spec = replace(method.data_spec, fake=fake)
    method.eval()
    negatives = torch.stack([torch.arange(20)[torch.arange(20) != i][:8] for i in range(6)])
    y = torch.arange(6)
    b = replace(toys.batch(6), index=torch.arange(6), neg_index=negatives, y=y, is_fake=fake[:6])
    s, t = (nn.functional.normalize(draw(6, 8, seed=k)) for k in (0, 10))

    def real_loss(moved: torch.Tensor) -> float:
        """Loss of the real rows alone, after what is kept of the fakes has moved."""
        own = copy.deepcopy(method)
        own.fake_weight = 0.0
        own.z_s.fill_(3.0), own.z_t.fill_(3.0)
        if storage == "memory":
            for kept in (own.kept_s, own.kept_t):
                kept[fake] += moved
        teacher = t.clone()
        if storage == "queue":
            teacher[fake[:6]] += moved
        return float(own.losses(toys.only(pooled=s), toys.only(pooled=teacher), b)["contrast"].detach())

    assert real_loss(torch.tensor(0.5)) == pytest.approx(real_loss(torch.tensor(0.0)), rel=1e-6)
    method.scope = "mixed"
    assert real_loss(torch.tensor(0.5)) != pytest.approx(real_loss(torch.tensor(0.0)), rel=1e-6)
