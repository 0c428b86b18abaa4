"""The plan of a run: what is compiled, what the work is, what auto means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cgankd.fit import device
from cgankd.fit.device import COMPILE_FROM_FLOP, CUDA_GRAPHS, PLAIN, Plan, device_of, filled_up, forward_flop


def test_flop_of_a_convolution_is_the_closed_form() -> None:
    net = nn.Conv2d(3, 5, 3, padding=1)
    assert forward_flop(net, torch.zeros(2, 3, 8, 8)) == 2 * 2 * 5 * 8 * 8 * 3 * 9


def test_counting_leaves_the_net_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    forward_flop(net, torch.randn(4, 1, 8, 8))
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("mode", "flop", "pays"),
    [
        ("off", 1e18, False),
        ("auto", COMPILE_FROM_FLOP["cpu"], True),
        ("auto", COMPILE_FROM_FLOP["cpu"] * 0.99, False),
        ("on", 1.0, True),
    ],
)
def test_auto_compiles_long_loops_only(mode: str, flop: float, pays: bool) -> None:
    assert Plan(compile=mode).pays(flop) is pays  # type: ignore[arg-type]


def test_auto_leaves_a_short_loop_to_the_very_net() -> None:
    net, example = nn.Linear(4, 4), torch.zeros(2, 4)
    assert PLAIN.compiled(net, "net", (example,), images=10**15) is net
    assert Plan(compile="auto").compiled(net, "net", (example,), images=1000) is net


def test_a_long_loop_is_compiled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Compiled:
        """As torch's compiled modules, it cannot be asked whether it is true."""

        def __call__(self, x: torch.Tensor) -> str:
            return "compiled"

        def __len__(self) -> int:
            raise TypeError

    monkeypatch.setattr(torch, "compile", lambda net: Compiled())
    net, example = nn.Linear(4, 4), torch.zeros(2, 4)
    plan = Plan(compile="auto", say=said.append)
    # 32 operations an image, three passes: just over the threshold.
    run = plan.compiled(net, "student", (example,), images=int(COMPILE_FROM_FLOP["cpu"] / 96) + 1, passes=3)
    assert run and run(example) == "compiled" and said[0].startswith("student: 200 TFLOP")


def test_a_device_is_given_more_work_before_it_compiles() -> None:
    assert not Plan("cuda", "auto").pays(COMPILE_FROM_FLOP["cpu"])
    assert Plan("cuda", "auto").pays(COMPILE_FROM_FLOP["cuda"])


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_nets_are_replayed_as_graphs_on_a_device_alone(
    monkeypatch: pytest.MonkeyPatch, place: str, graphs: bool
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda net, **options: seen.append(options) or net)
    Plan(place, "on").compiled(nn.Linear(4, 4), "net", (torch.zeros(2, 4),), images=1, graphs=graphs)
    assert seen == [{"options": CUDA_GRAPHS} if place == "cuda" and graphs else {}]


@pytest.mark.parametrize("num", [1, 3, 8])
def test_a_batch_filled_up_gives_the_results_of_its_rows(num: int) -> None:
    sizes: list[int] = []

    def run(x_BI: torch.Tensor, flag: bool) -> tuple[torch.Tensor, None]:
        assert flag is False
        sizes.append(len(x_BI))
        return 2 * x_BI, None

    x_BI = torch.rand(num, 4)
    found, nothing = filled_up(run, 8, x_BI, False)
    assert torch.equal(found, 2 * x_BI) and nothing is None and sizes == [8]
    assert torch.equal(filled_up(lambda x: x + 1, 8, x_BI), x_BI + 1)


def test_inference_fills_batches_up_where_a_graph_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Compiled:
        def __call__(self, x_BI: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x_BI))
            return x_BI

    monkeypatch.setattr(torch, "compile", lambda net, **options: Compiled())
    net, example = nn.Linear(4, 4), (torch.zeros(2, 4),)
    for place in ("cpu", "cuda"):
        assert len(Plan(place, "on").inference(net, "net", example, images=1, batch_size=8)(torch.zeros(3, 4))) == 3
    assert sizes == [3, 8]
    assert Plan("cuda").inference(net, "net", example, images=1, batch_size=8) is net


def test_a_net_without_weights_is_where_its_buffers_are() -> None:
    assert device_of(nn.BatchNorm1d(2, affine=False).to("meta")) == "meta"
    assert device_of(nn.Linear(2, 2).to("meta")) == "meta" and device_of(nn.ReLU()) == "cpu"


def test_bf16_that_a_device_emulates_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not device.is_bf16("auto", "cuda") and device.is_bf16("bf16", "cuda")


def test_precision_auto_follows_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(device, "has_bf16_units", lambda there=there: there)
        assert device.is_bf16("auto") is there
        assert device.is_bf16("bf16") and not device.is_bf16("fp32")
