"""Students for small boards: their layers written down by hand, sizes by arithmetic on those, and no operator beyond."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_body
from tests.conftest import ROOT
from tests.nets.predictors.layers import measured

LAYERS = {
    # Channels and height of the stem, then of each separable block, as a person would draw them; width 8.
    ("ds-cnn", 8): [(8, 4), (8, 4)],
    ("ds-cnn", 16): [(8, 8), (8, 8), (8, 4), (8, 4)],
    ("ds-cnn", 24): [(8, 12), (8, 12), (8, 6), (8, 6), (8, 3), (8, 3)],
    ("ds-cnn", 32): [(8, 16), (8, 16), (8, 8), (8, 8), (8, 4), (8, 4)],
    ("ds-cnn", 64): [(8, 32), (8, 32), (8, 16), (8, 16), (8, 8), (8, 8), (8, 4), (8, 4)],
    ("tiny-mobilenet", 8): [(8, 4), (16, 4)],
    ("tiny-mobilenet", 16): [(8, 8), (16, 8), (32, 4), (32, 4)],
    ("tiny-mobilenet", 24): [(8, 12), (16, 12), (32, 6), (32, 6), (64, 3), (64, 3)],
    ("tiny-mobilenet", 32): [(8, 16), (16, 16), (32, 8), (32, 8), (64, 4), (64, 4)],
    ("tiny-mobilenet", 64): [(8, 32), (16, 32), (32, 16), (32, 16), (64, 8), (64, 8), (128, 4), (128, 4)],
}
SIZES = {
    # Trainable numbers and multiplications at width 8, 3 channels and 10 outputs.
    ("ds-cnn", 8): (490, 5_712),
    ("ds-cnn", 16): (826, 26_960),
    ("ds-cnn", 24): (1_162, 63_008),
    ("ds-cnn", 32): (1_162, 111_952),
    ("ds-cnn", 64): (1_498, 451_920),
    ("tiny-mobilenet", 8): (650, 6_816),
    ("tiny-mobilenet", 16): (3_002, 58_432),
    ("tiny-mobilenet", 24): (10_778, 194_464),
    ("tiny-mobilenet", 32): (10_778, 345_216),
    ("tiny-mobilenet", 64): (38_618, 1_800_448),
}


def by_hand(layers: list[tuple[int, int]], channels: int, outputs: int) -> tuple[int, int]:
    """A convolution of k x k weighs k^2 c_in c_out, or k^2 c within channels, and multiplies each once a place; batch
    norm has two numbers a channel and is folded away when the net runs."""
    (c, size), *blocks = layers
    numbers, macs = 9 * channels * c + 2 * c, 9 * channels * c * size**2
    for out, size in blocks:
        numbers += (9 * c + 2 * c) + (c * out + 2 * out)
        macs += (9 * c + c * out) * size**2
        c = out
    return numbers + c * outputs + outputs, macs + c * outputs


@pytest.mark.parametrize(("net", "size"), LAYERS)
def test_sizes_are_those_of_the_layers(net: str, size: int) -> None:
    shape = NetShape(10, 3, size)
    with torch.device("meta"):
        found = measured(make_body(net, shape, width=8), size)
    assert found == by_hand(LAYERS[net, size], 3, 10) == SIZES[net, size]


@pytest.mark.parametrize("net", ["ds-cnn", "tiny-mobilenet"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (1, 28), (3, 96)])
def test_forms_of_images_and_answers(net: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    body = make_body(net, NetShape(2, channels, size), width=4)
    out = body.outputs(torch.randn(3, channels, size, size))  # type: ignore[operator]
    assert out.pred.shape == (3, 2) and [s.shape[2] for s in out.stages][-1] in (3, 4)
    assert len(out.stages) == len({s.shape[2] for s in out.stages})
    out.pred.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in body.parameters())


@pytest.mark.parametrize("net", ["ds-cnn", "tiny-mobilenet"])
def test_no_operator_that_a_board_lacks(net: str) -> None:
    """Of the exported graph too, where a shortcut, a mean or a shuffle would show."""
    body = make_body(net, NetShape(5, 3, 32), width=4).eval()
    kinds = {type(m) for m in body.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d, nn.Linear}
    graph = torch.export.export(body, (torch.zeros(1, 3, 32, 32),)).graph
    operators = {str(node.target).split(".")[1] for node in graph.nodes if node.op == "call_function"}
    assert operators == {"conv2d", "batch_norm", "relu", "avg_pool2d", "flatten", "linear"}


def test_channels_stop_at_32_times_the_width() -> None:
    body = make_body("tiny-mobilenet", NetShape(2, 1, 512), width=2)
    assert max(m.out_channels for m in body.modules() if isinstance(m, nn.Conv2d)) == 64


def test_the_page_of_nets_has_their_sizes() -> None:
    page = (ROOT / "docs/nets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)`, (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {name for name, _, _ in rows} >= {"ds-cnn", "tiny-mobilenet"}
    for name, width, cells in rows:
        for size, cell in zip((16, 32, 64), cells.split(" | "), strict=True):
            with torch.device("meta"):
                found = measured(make_body(name, NetShape(10, 3, size), width=int(width)), size)
            assert cell == f"{found[0]:,} / {found[1]:,}", name
