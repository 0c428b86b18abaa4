"""A batch that finds no memory is cut into pieces that make the same step, or the step is refused with a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgankd.data.batches import Batch, Mixture
from cgankd.fit.device import Forward, Plan
from cgankd.fit.loop import Loop
from cgankd.fit.need import step_bytes, worker_bytes
from cgankd.fit.pieces import Halves
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict
from cgankd.fit.room import NoRoom, lacking, out_of_memory, wanted_bytes
from cgankd.labels.task import ClassTask
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import seed_all
from tests.fit.test_predictor import INFO, fit_config, toy

CPU = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 2100000000"
CPU += " bytes. Error code 12 (Cannot allocate memory)"
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.20 GiB is free."


class Narrow(nn.Module):
    """A net that has no memory for more than `most` images."""

    def __init__(self, most: int = 10**9, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.most, self.seen = most, list[int]()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), norm(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.seen.append(len(x_BCHW))
        if len(x_BCHW) > self.most:
            raise RuntimeError(CPU)
        out_BO: Tensor = self.body(x_BCHW)
        return out_BO


class Apart(Plain):
    """A loss that compares the images of a batch."""

    by_image = False


def trained(net: nn.Module, objective: type[Plain] = Plain, **changes: Any) -> tuple[nn.Module, list[str]]:
    """The net after training, and what was said."""
    said: list[str] = []
    cfg = fit_config(**({"num_steps": 6, "batch_size": 8, "optimizer": "sgd"} | changes))
    data = Mixture(toy(), None, real_share=None, batch_size=cfg.batch_size, seed=1)
    feed = Feed(data.batch, lambda unit, gen: unit)
    fit_predictor(net, objective(ClassTask(INFO)), feed, cfg, Loop(1, Plan(say=said.append)))
    return net, said


def net(most: int = 10**9, norm: type[nn.Module] = nn.LayerNorm) -> Narrow:
    seed_all("pieces")
    return Narrow(most, norm)


@pytest.mark.parametrize(("most", "count"), [(4, 2), (3, 4), (1, 8)])
def test_pieces_make_the_step_of_the_whole_batch(most: int, count: int) -> None:
    whole, nothing = trained(net())
    parts, said = trained(net(most))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not nothing and len(said) == count.bit_length() - 1
    assert said[-1] == (
        f"a training step on {2 * 8 // count} images finds no memory: another 2.1 GB were needed; from here on a step is made of"
        f" {count} pieces, which add up to the same gradient"
    )
    assert isinstance(parts, Narrow) and parts.seen.count(8 // count) >= 6 * count, "no whole batch is tried again"


def test_pieces_of_different_sizes_count_by_their_images() -> None:
    whole, _ = trained(net(), batch_size=7)
    parts, said = trained(net(4), batch_size=7)  # 4 and 3
    assert len(said) == 1
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "objective", "why"),
    [
        (lambda: net(4, nn.BatchNorm1d), Plain, "as the net's batch norms look at the whole batch: lower batch_size"),
        (lambda: net(4), Apart, "as its loss compares the images of a batch with each other: lower batch_size"),
        (lambda: net(0), Plain, "not even one image fits: lower the net's width"),
    ],
)
def test_what_would_be_another_step_is_refused(make: Any, objective: type[Plain], why: str) -> None:
    with pytest.raises(NoRoom, match=why) as caught:
        trained(make(), objective)
    assert "images finds no memory: another 2.1 GB were needed" in str(caught.value)


def test_other_errors_are_raised_as_they_are() -> None:
    class Broken(Plain):
        def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Batch, step: int) -> Mapping[str, Tensor]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained(net(), Broken)


def test_answers_are_those_of_the_whole_set() -> None:
    images, said = toy().images, list[str]()
    whole = make_predict(net(), "fp32", 64)(images)
    narrow = net(10)
    parts = make_predict(narrow, "fp32", 64, plan=Plan(say=said.append))
    torch.testing.assert_close(parts(images), whole)
    torch.testing.assert_close(parts(images), whole)
    assert [line.split(":")[0] for line in said] == [f"{n} images at a time find no memory" for n in (64, 32, 16)]
    assert narrow.seen == [64, 32, 16, *[8] * 16], "what failed once is not tried again"
    with pytest.raises(NoRoom, match="not even one image fits into memory"):
        make_predict(net(0), "fp32", 64)(images)


def test_answers_in_tuples_are_put_together_place_by_place() -> None:
    rows = torch.arange(5)

    def run(x: Tensor) -> tuple[Tensor, None, Tensor]:
        if len(x) > 2:
            raise MemoryError
        return x + 1, None, -x

    one, none, other = Halves()(run, rows)
    assert torch.equal(one, rows + 1) and none is None and torch.equal(other, -rows)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError(CPU), 2.1e9),
        (torch.OutOfMemoryError(CUDA), 2 * 2.0**30),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000, 1000000)"), 7.45 * 2**30),
        (MemoryError(), None),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), None),
        (OSError(12, "Cannot allocate memory"), None),
        (RuntimeError("can't start new thread"), None),
        (RuntimeError("unable to mmap 1000 bytes from file </x>: Cannot allocate memory (12)"), 1000),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(error: Exception, wanted: float | None) -> None:
    assert out_of_memory(error) and wanted_bytes(error) == (wanted and pytest.approx(wanted))
    assert lacking(error).endswith("needed" if wanted else "no room for more")


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shape mismatch"), OSError(28, "No space")]
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)


def test_the_need_of_a_step_is_that_of_its_batch_and_weights() -> None:
    """A linear net in closed form: the input of each layer is kept."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(100, 50, bias=False), nn.Linear(50, 10, bias=False))
    weights = 4 * (100 * 50 + 50 * 10)
    expected = 4 * weights + 1.5 * 64 * 4 * (100 + 50)
    assert step_bytes(body, torch.zeros(2, 1, 10, 10), 64) == pytest.approx(expected)
    assert worker_bytes(1e9, 2e9, "cpu") - worker_bytes(0, 0, "cpu") == 3e9
    assert worker_bytes(1e9, 2e9, "cuda") - worker_bytes(0, 0, "cuda") == 2e9, "the step lies on the device"


def test_the_need_of_a_net_grows_with_its_batch() -> None:
    made = make_predictor("resnet20", NetShape(10, 3, 32), width=None, mean=[0.5] * 3, std=[0.5] * 3)
    small, large = (step_bytes(made, torch.zeros(2, 3, 32, 32), size) for size in (32, 128))
    # ResNet-20 on 32 px with 128 images took 0.36 GB in full precision when it was measured.
    assert 0.25e9 < large < 0.45e9 and small < large / 3
