"""Predictors: shapes, normalisation inside, sizes."""

from __future__ import annotations

import pytest
import torch

from cgankd.nets.zoo import NETS, make_predictor


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 32), (3, 64)])
def test_shapes(name: str, channels: int, size: int) -> None:
    net = make_predictor(
        name, width=8, num_outputs=5, channels=channels, image_size=size, mean=[0.5] * channels, std=[0.2] * channels
    )
    assert net(torch.rand(3, channels, size, size)).shape == (3, 5)


def test_normalisation_is_inside() -> None:
    torch.manual_seed(0)
    net = make_predictor(
        "convnet", width=4, num_outputs=2, channels=3, image_size=16, mean=[0.1, 0.2, 0.3], std=[0.5, 1, 2]
    )
    x = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    net.eval()
    torch.testing.assert_close(net(x), net.body((x - mean) / std))
    assert {"mean", "std"} <= set(net.state_dict())


def test_student_is_far_smaller_than_the_teacher() -> None:
    student, teacher = (
        sum(
            p.numel()
            for p in make_predictor(
                n, width=w, num_outputs=1, channels=3, image_size=32, mean=[0] * 3, std=[1] * 3
            ).parameters()
        )
        for n, w in (("convnet", 16), ("plain-vgg", 32))
    )
    assert 30_000 < student < 45_000 and teacher > 10 * student


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="'resnet9' is not known; choose one of convnet, plain-vgg"):
        make_predictor("resnet9", width=1, num_outputs=1, channels=1, image_size=16, mean=[0], std=[1])


def test_config_knows_every_net() -> None:
    from cgankd import config

    assert set(config.NETS) == set(NETS)


@pytest.mark.parametrize("name", sorted(NETS))
def test_outputs_are_those_of_the_forward_pass(name: str) -> None:
    torch.manual_seed(0)
    net = make_predictor(name, width=8, num_outputs=5, channels=3, image_size=32, mean=[0.5] * 3, std=[0.2] * 3).eval()
    x = torch.rand(3, 3, 32, 32)
    out = net.outputs(x)
    torch.testing.assert_close(out.pred, net(x), rtol=0, atol=0)
    assert out.head is not None and out.pooled is not None
    torch.testing.assert_close(out.head(out.pooled), out.pred)
    assert len(out.stages) == len(out.preacts) >= 3
    for after, before in zip(out.stages, out.preacts, strict=True):
        torch.testing.assert_close(after, before.relu(), rtol=0, atol=0)
        assert (before < 0).any()
    heights = [stage.shape[2] for stage in out.stages]
    assert heights == sorted(heights, reverse=True)
