from __future__ import annotations

import torch

from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.rng import seed_all


def test_the_ratio_starts_near_one_is_never_negative_and_is_float32_under_bfloat16() -> None:
    seed_all(0)
    mlp = RatioMLP(16, 48, (64, 32, 16), dropout=0.5).requires_grad_(False)
    h_BE, f_BF = torch.randn(256, 16), torch.randn(256, 48)
    start_B = mlp.eval()(h_BE, f_BF)
    assert start_B.shape == (256,) and float((start_B > 0).float().mean()) > 0.95
    assert 0.3 < float(start_B.mean()) < 2.0
    torch.nn.init.constant_(mlp.last.bias, -10.0)
    assert torch.equal(mlp(h_BE, f_BF), torch.zeros(256))
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(h_BE, f_BF).dtype == torch.float32


def test_a_group_norm_of_eight_groups_follows_every_hidden_layer() -> None:
    mlp = RatioMLP(4, 4, (16, 8), dropout=0.1)
    assert [m.num_groups for m in mlp.modules() if isinstance(m, torch.nn.GroupNorm)] == [8, 8]
    assert "scale" in mlp.state_dict()


def test_the_widths_of_the_published_code_for_scalars_give_13_million_weights() -> None:
    """128 + 12,288 inputs and 1024-512-256-128-64 hidden units, a gain and a shift for each; 28.2 M with the paper's."""
    sizes = []
    for hidden in ((1024, 512, 256, 128, 64), (2048, 1024, 512, 256, 128)):
        widths = [128 + 3 * 64**2, *hidden]
        by_hand = sum(a * b + 3 * b for a, b in zip(widths, widths[1:], strict=False)) + hidden[-1] + 1
        mlp = RatioMLP(128, 3 * 64**2, hidden, dropout=0.5)
        assert sum(p.numel() for p in mlp.parameters()) == by_hand
        sizes.append(by_hand)
    assert sizes == [13_416_321, 28_225_281]
