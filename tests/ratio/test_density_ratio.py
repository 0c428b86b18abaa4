from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from cgankd.fit.loop import Loop
from cgankd.labels.task import ScalarTask
from cgankd.nets.gans.label_embed import ClassEmbed, ScalarEmbed
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import FLAT_LOSS, RatioNets, make_ratio, ratio_loss, train_ratio
from cgankd.ratio.features import Reals
from cgankd.ratio.partners import FakeSource, draw_pool, within
from cgankd.rng import generator, seed_all
from cgankd.types import Images, Split
from tests.bank.toys import VICINITY, Interrupted, MemoryCheckpoint, class_task, info, ratio_config, scalar_task

LEVELS = 24.0  # grey levels per unit of x
P = (stats.norm(0.0, 1.0), stats.norm(0.8, 0.9))  # real density of each class
Q = (stats.norm(0.6, 1.3), stats.norm(-0.1, 1.3))  # fake density of each class


def as_images(x_N: Tensor) -> Tensor:
    return (x_N * LEVELS + 128).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 1, 1)


def identity_features(images_BCHW: Tensor) -> Tensor:
    return (images_BCHW.reshape(-1, 1).float() - 128) / LEVELS


def draw_from(pairs: tuple[stats.rv_continuous, ...], label_B: Tensor, gen: torch.Generator) -> Tensor:
    mean = torch.tensor([d.mean() for d in pairs])[label_B]
    sd = torch.tensor([d.std() for d in pairs])[label_B]
    return as_images(mean + sd * torch.randn(len(label_B), generator=gen))


def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
    return draw_from(Q, label_B, gen)


def reals(num: int, seed: int) -> Split:
    gen = torch.Generator().manual_seed(seed)
    label_N = torch.arange(num) % 2
    return Split(draw_from(P, label_N, gen), label_N)


def never(images_BCHW: Images) -> tuple[Tensor, Tensor]:
    raise AssertionError("exact matching predicts no label")


def class_source(train: Split) -> FakeSource:
    """Fakes for the classes of a training split, which match exactly, so that no label is read."""
    return FakeSource(draw, identity_features, never, class_task(2).vicinity(train.labels), float("inf"), 10)


def numpy_loss(real: np.ndarray, fake: np.ndarray, penalty: float) -> float:
    sigmoid = lambda r: 1 / (1 + np.exp(-r))  # noqa: E731
    fit = (sigmoid(fake) * fake - np.log1p(np.exp(fake))).mean() - sigmoid(real).mean()
    return float(fit + penalty * (fake.mean() - 1) ** 2)


def test_the_loss_is_the_formula_in_numpy() -> None:
    rng = np.random.default_rng(0)
    real, fake, group = rng.exponential(size=7), rng.exponential(size=12), np.arange(12) % 3 * 5
    found = ratio_loss(torch.from_numpy(real), torch.from_numpy(fake), 0.3)
    assert float(found) == pytest.approx(numpy_loss(real, fake, 0.3), rel=1e-9)
    grouped = ratio_loss(torch.from_numpy(real).float(), torch.from_numpy(fake).float(), 0.3, torch.from_numpy(group))
    penalty = np.mean([(fake[group == g].mean() - 1) ** 2 for g in (0, 5, 10)])
    assert float(grouped) == pytest.approx(numpy_loss(real, fake, 0.0) + 0.3 * penalty, rel=1e-5)
    assert pytest.approx(-np.log1p(np.e), rel=1e-6) == FLAT_LOSS


def test_the_minimiser_over_free_values_is_p_over_q() -> None:
    real_counts, fake_counts = torch.tensor([5, 10, 60, 25]), torch.tensor([40, 30, 20, 10])
    free = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        r = F.softplus(free)
        loss = ratio_loss(r.repeat_interleave(real_counts), r.repeat_interleave(fake_counts), 0.1)
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    assert F.softplus(free).tolist() == pytest.approx((real_counts / fake_counts).tolist(), rel=1e-4)


def fitted() -> tuple[RatioMLP, ClassEmbed, dict[str, float], Split]:
    seed_all(0, "fit")
    mlp, embed = RatioMLP(8, 1, (64, 32), dropout=0.0), ClassEmbed(2, 8)
    train, val, task = reals(4000, 1), reals(1000, 2), class_task(2)
    cfg = ratio_config(
        num_steps=500, batch_size=256, learning_rate=2e-3, pool_size=4096, pool_refresh_steps=100, eval_every_steps=50
    )
    report = train_ratio(RatioNets(mlp, embed), class_source(train), Reals(train, val), task, cfg, Loop(3))
    return mlp, embed, report, val


def test_the_fitted_ratio_approaches_p_over_q_in_each_class() -> None:
    mlp, embed, report, val = fitted()
    ratio = make_ratio(RatioNets(mlp, embed), identity_features)
    for label in (0, 1):
        x = torch.linspace(-1.5, 2.5, 60)
        images = as_images(x)
        at = identity_features(images)[:, 0].double().numpy()
        true = P[label].pdf(at) / Q[label].pdf(at)
        found = ratio(images, torch.full((60,), label)).double().numpy()
        assert np.corrcoef(true, found)[0, 1] > 0.97
        assert np.abs(found - true).mean() / true.mean() < 0.12
        fakes = draw(torch.full((20_000,), label), generator(9, label))
        assert float(ratio(fakes, torch.full((20_000,), label)).mean()) == pytest.approx(1.0, abs=0.1)
    assert report["mean_fake"] == pytest.approx(1.0, abs=0.1)
    assert report["scale"] == pytest.approx(1 / report["mean_fake"])
    assert report["mean_train_real"] == pytest.approx(report["mean_val_real"], rel=0.1)
    assert report["mean_val_real"] > report["mean_fake"]
    assert report["val_loss"] < FLAT_LOSS
    assert report["zero_share"] < 0.3


def small_fit(checkpoint: MemoryCheckpoint | None, **changes: object) -> tuple[RatioMLP, ClassEmbed, dict[str, float]]:
    seed_all(0, "small")
    mlp, embed, task = RatioMLP(8, 1, (16, 8), dropout=0.5), ClassEmbed(2, 8), class_task(2)
    train, val = reals(60, 1), reals(40, 2)
    report = train_ratio(
        RatioNets(mlp, embed),
        class_source(train),
        Reals(train, val),
        task,
        ratio_config(pool_size=128, pool_refresh_steps=30, eval_every_steps=7, **changes),
        Loop(5, checkpoint=checkpoint),
    )
    return mlp, embed, report


def test_a_killed_and_resumed_fit_is_bitwise_the_uninterrupted_one() -> None:
    whole, checkpoint = MemoryCheckpoint(), MemoryCheckpoint(kill_at=50)
    mlp_a, embed_a, report_a = small_fit(whole)
    with pytest.raises(Interrupted):
        small_fit(checkpoint)
    mlp_b, embed_b, report_b = small_fit(checkpoint)
    assert report_a == report_b
    # The last weights too, not only the best ones: those may be older than the kill.
    last_a, last_b = whole.load(), checkpoint.load()
    assert last_a and last_b and last_a["step"] == last_b["step"] == 100
    for x, y in zip(last_a["both"].values(), last_b["both"].values(), strict=True):
        assert torch.equal(x, y)
    for a, b in ((mlp_a, mlp_b), (embed_a, embed_b)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_weights_best_on_validation_are_kept_though_the_loop_overfits() -> None:
    def overfit(num_steps: int) -> tuple[RatioMLP, dict[str, float], list[float]]:
        seed_all(0, "overfit")
        mlp, task, train = RatioMLP(8, 1, (32, 32), dropout=0.0), class_task(2), reals(6, 1)
        seen: list[float] = []
        cfg = ratio_config(num_steps=num_steps, learning_rate=5e-3, eval_every_steps=1, ratio_penalty=0.0)
        report = train_ratio(
            RatioNets(mlp, ClassEmbed(2, 8)),
            class_source(train),
            Reals(train, reals(400, 2)),
            task,
            cfg,
            Loop(5, log=lambda step, values, total: seen.append(values["val_loss"])),
        )
        return mlp, report, seen

    mlp, report, seen = overfit(100)
    best = seen.index(min(seen))
    assert report["val_loss"] == seen[best] < seen[-1] - 0.01 and report["best_step"] == best + 1 < 100
    stopped, _, _ = overfit(best + 1)
    assert all(torch.equal(a, b) for a, b in zip(mlp.parameters(), stopped.parameters(), strict=True))


def test_the_learned_embedding_moves_and_the_published_pool_works() -> None:
    seed_all(0, "small")
    RatioMLP(8, 1, (16, 8), dropout=0.5)
    untouched = ClassEmbed(2, 8).table.weight.clone()
    _, embed, _ = small_fit(None, penalty_per_label=True)
    assert not torch.equal(embed.table.weight, untouched)
    logged: list[int] = []
    task = class_task(2)
    train = reals(60, 1)
    cfg = ratio_config(pool_size=64, batch_size=64, pool_refresh_steps=1, num_steps=20)
    train_ratio(
        RatioNets(RatioMLP(8, 1, (16, 8), 0.0), ClassEmbed(2, 8)),
        class_source(train),
        Reals(train, reals(40, 2)),
        task,
        cfg,
        Loop(1, log=lambda step, values, total: logged.append(step)),
    )
    assert logged == list(range(1, 21))


class Rates(torch.optim.Adam):
    """Adam that remembers the rate of each of its steps."""

    seen: list[float]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        type(self).seen.append(self.param_groups[0]["lr"])
        super().step()


@pytest.mark.parametrize(("shares", "drops"), [((), ()), ((0.4, 0.75), (40, 75))])
def test_the_rate_is_a_tenth_from_each_milestone_on(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], drops: tuple[int, ...]
) -> None:
    monkeypatch.setattr(torch.optim, "Adam", Rates)
    Rates.seen = []
    schedule = {"schedule": "multistep", "milestones": shares} if shares else {}
    small_fit(None, learning_rate=1e-3, num_steps=100, **schedule)
    np.testing.assert_allclose(Rates.seen, [1e-3 * 0.1 ** sum(step >= at for at in drops) for step in range(100)])


def test_a_schedule_is_taken_up_where_a_killed_fit_was() -> None:
    schedule = {"schedule": "multistep", "milestones": (0.3, 0.8), "flip": True}
    whole, killed = MemoryCheckpoint(), MemoryCheckpoint(kill_at=50)
    _, _, report = small_fit(whole, **schedule)
    with pytest.raises(Interrupted):
        small_fit(killed, **schedule)
    assert small_fit(killed, **schedule)[2] == report


def test_half_of_the_real_images_are_mirrored() -> None:
    """Images of two pixels, bright on the left: the net sees the features of both sides, equally often, of reals alone."""
    seen: list[Tensor] = []

    class Spy(RatioMLP):
        def forward(self, h_BE: Tensor, features_BF: Tensor) -> Tensor:
            if self.training:
                seen.append(features_BF.detach().clone())
            return super().forward(h_BE, features_BF)

    label_N = torch.arange(40) % 2
    images = torch.tensor([200, 10], dtype=torch.uint8).expand(40, 1, 1, 2).contiguous()
    sides = lambda images: images[slice(None)][:, 0, 0].float() / 255  # noqa: E731
    fakes = lambda label_B, gen: images[:1].expand(len(label_B), 1, 1, 2)  # noqa: E731
    source = FakeSource(fakes, sides, never, class_task(2).vicinity(label_N), float("inf"), 1)
    split = Split(images, label_N)
    cfg = ratio_config(num_steps=50, batch_size=20, pool_size=40, flip=True)
    nets = RatioNets(Spy(8, 2, (8,), 0.0), ClassEmbed(2, 8))
    train_ratio(nets, source, Reals(split, split), class_task(2), cfg, Loop(2))
    both = torch.stack(seen)
    assert bool((both[:, 20:, 0] > 0.5).all()), "fakes are not mirrored"
    left = (both[:, :20, 0] > 0.5).double()
    assert float(left.mean()) == pytest.approx(0.5, abs=0.05) and 0.05 < float(left[0].mean()) < 0.95
    assert torch.equal((both[:, :20, 1] > 0.5).double(), 1 - left)


def test_distinct_partners_have_every_label_equally_often_in_training_and_in_the_loss_that_chooses() -> None:
    label_N = torch.cat([torch.full((30,), 2.0), torch.full((6,), 5.0), torch.full((1,), 8.0)])
    source = replace(scalar_source(float("inf"), 1)[0], features=grey, targets="distinct")
    pool = draw_pool(source, label_N, 300, torch.Generator().manual_seed(0))
    assert torch.bincount(label_N[pool.partner].long())[[2, 5, 8]].tolist() == [100, 100, 100]
    assert torch.bincount(pool.partner, minlength=37)[:30].max() < 15, "any image of a label"
    even = replace(source, targets="marginal")
    assert torch.bincount(draw_pool(even, label_N, 370, torch.Generator().manual_seed(0)).partner).tolist() == [10] * 37


def test_a_loss_that_is_not_finite_names_the_cure() -> None:
    with pytest.raises(ValueError, match=r"ratio\.learning_rate"):
        small_fit(None, ratio_penalty=float("inf"))


# Scalar labels: an "image" is its own label, ten grey levels a unit; the label head reads it back.


def grey(images_BCHW: Images) -> Tensor:
    return images_BCHW[slice(None)].reshape(-1, 1).float()


def judge(images_BCHW: Images) -> tuple[Tensor, Tensor]:
    return grey(images_BCHW), grey(images_BCHW)[:, 0] / 10


def draw_scalar(label_B: Tensor, gen: torch.Generator) -> Tensor:
    noise = torch.randn(len(label_B), generator=gen)
    return ((label_B + noise) * 10).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 1, 1)


def scalar_source(zeta: float, max_redraws: int) -> tuple[FakeSource, Tensor]:
    label_N = torch.linspace(0.5, 9.5, 37)
    vicinity = scalar_task().vicinity(label_N)
    return FakeSource(draw_scalar, grey, judge, vicinity, zeta, max_redraws), label_N


def test_scalar_fakes_outside_the_vicinity_are_redrawn_and_the_rest_dropped_with_its_partner() -> None:
    dropped = []
    for max_redraws in (1, 20):
        source, label_N = scalar_source(0.4, max_redraws)
        pool = draw_pool(source, label_N, 500, torch.Generator().manual_seed(0))
        off_P = (pool.features[:, 0] / 10 - label_N[pool.partner]).abs()
        assert float(off_P.max()) <= 0.4 + 1e-5, "every fake in the pool is near its own partner"
        assert len(pool) == round(500 * (1 - pool.dropped_share))
        assert pool.redrawn_share > 0
        dropped.append(pool.dropped_share)
    assert 0.1 < dropped[0] < 0.6 and dropped[1] < 0.01


@pytest.mark.parametrize("new_labels", [True, False])
def test_a_redrawn_fake_may_keep_the_label_that_was_asked(new_labels: bool) -> None:
    source, label_N = scalar_source(0.4, 20)
    asked: list[Tensor] = []

    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        asked.append(label_B)
        return draw_scalar(label_B, gen)

    draw_pool(replace(source, draw=draw, new_labels=new_labels), label_N, 300, torch.Generator().manual_seed(0))
    assert len(asked) > 2
    again = [bool(torch.isin(labels, asked[0]).all()) for labels in asked[1:]]
    assert all(again) == (not new_labels)


def test_a_fake_is_looked_at_once_for_its_label_and_its_features() -> None:
    source, label_N = scalar_source(0.4, 20)
    seen, drawn = [0], [0]

    def counted_judge(images_BCHW: Images) -> tuple[Tensor, Tensor]:
        seen[0] += len(images_BCHW)
        return judge(images_BCHW)

    def counted_draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        drawn[0] += len(label_B)
        return draw_scalar(label_B, gen)

    once = replace(source, draw=counted_draw, judge=counted_judge, features=never)
    pool = draw_pool(once, label_N, 300, torch.Generator().manual_seed(0))
    assert seen == drawn and drawn[0] == 300 + round(300 * pool.redrawn_share) > 300


def test_a_vicinity_of_no_width_is_the_label_itself_and_no_fake_is_judged() -> None:
    source, label_N = scalar_source(zeta=0.0, max_redraws=3)
    asked = []

    def noted(label_B: Tensor, gen: torch.Generator) -> Tensor:
        asked.append(label_B)
        return source.draw(label_B, gen)

    exact = replace(source, draw=noted, judge=never)
    pool = draw_pool(exact, label_N, 50, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(asked), label_N[pool.partner]) and len(pool.partner) == 50
    assert (pool.redrawn_share, pool.dropped_share) == (0.0, 0.0)


def test_fakes_across_the_seam_of_a_circle_are_inside() -> None:
    label_N = torch.linspace(0.0, 9.75, 40)
    circle = replace(info("scalar", label_min=0.0, label_max=10.0), label_period=10.0)
    vicinity = ScalarTask(circle, VICINITY, 1.0, 10).vicinity(label_N)
    source, _ = scalar_source(0.4, 1)
    label_B = torch.tensor([9.9, 9.9, 0.0, 5.0])
    images = torch.tensor([1, 96, 98, 1], dtype=torch.uint8).reshape(-1, 1, 1, 1)  # labels 0.1, 9.6, 9.8 and 0.1
    assert within(replace(source, vicinity=vicinity), images, label_B)[1].tolist() == [True, True, True, False]
    assert within(source, images, label_B)[1].tolist() == [False, True, False, False]


def test_partners_are_spread_evenly_over_the_real_images() -> None:
    source, label_N = scalar_source(float("inf"), 1)
    source = FakeSource(draw, identity_features, never, class_task(2).vicinity(torch.arange(37) % 2), float("inf"), 1)
    pool = draw_pool(source, torch.arange(37) % 2, 100, torch.Generator().manual_seed(0))
    counts = torch.bincount(pool.partner, minlength=37)
    assert int(counts.min()) == 2 and int(counts.max()) == 3 and pool.dropped_share == 0.0


def test_a_generator_that_ignores_its_label_is_reported() -> None:
    source, label_N = scalar_source(0.1, 2)
    blank = FakeSource(
        lambda label_B, gen: torch.full((len(label_B), 1, 1, 1), 255, dtype=torch.uint8),
        source.features,
        judge,
        source.vicinity,
        0.1,
        2,
    )
    with pytest.raises(ValueError, match=r"ratio\.vicinity_drop: all 50 fakes"):
        draw_pool(blank, label_N, 50, torch.Generator().manual_seed(0))


def test_a_scalar_embedding_stays_frozen() -> None:
    seed_all(1)
    task, embed, mlp = scalar_task(), ScalarEmbed(8, 0.0, 10.0), RatioMLP(8, 1, (16,), 0.0)
    before = copy.deepcopy(embed.state_dict())
    gen = torch.Generator().manual_seed(0)
    label_N = 10 * torch.rand(80, generator=gen)
    train = Split((label_N * 10).to(torch.uint8).reshape(-1, 1, 1, 1), label_N)
    cfg = ratio_config(num_steps=30)
    source = FakeSource(
        draw_scalar,
        lambda images: images.reshape(-1, 1).float() / 128 - 1,
        lambda images: (judge(images)[0] / 128 - 1, judge(images)[1]),
        task.vicinity(label_N),
        1.5,
        cfg.max_redraws,
    )
    both = Reals(train, train.take(torch.arange(30)))
    report = train_ratio(RatioNets(mlp, embed), source, both, task, cfg, Loop(0))
    assert all(torch.equal(before[k], v) for k, v in embed.state_dict().items())
    assert 0 <= report["dropped_share"] < 0.2 and report["redrawn_share"] > 0
    assert all(isinstance(v, float) for v in report.values())
