"""Programs as bodies: told apart by their content, whole in their own state, frozen, in the unit of the task."""

from __future__ import annotations

import io
import warnings
import zipfile

import pytest
import torch
from torch import Tensor, nn

from cgankd.export import ShippedModel, program
from cgankd.fit.device import device_of
from cgankd.nets.predictors.program import Program, kind_of, open_program
from cgankd.nets.predictors.zoo import Predictor


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2)]
    net = nn.Sequential(*layers)
    net(torch.randn(8, 3, 16, 16))  # running statistics of their own
    return net.eval()


def torchscript(net: nn.Module) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def exported(net: nn.Module) -> bytes:
    out = io.BytesIO()
    x = torch.rand(2, 3, 16, 16)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)), out)
    return out.getvalue()


def as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


MAKERS = {"torchscript": torchscript, "torch.export": exported}


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_program_says_what_its_net_says(kind: str) -> None:
    net = model()
    data = MAKERS[kind](net)
    assert kind_of(data) == kind
    body = Program(as_tensor(data), shift=10.0, scale=4.0)
    x = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = (net(x) - 10.0) / 4.0
    for chosen in (body.eval(), body.train()):
        torch.testing.assert_close(chosen(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(body(x), expected)
    out = body.outputs(x)
    torch.testing.assert_close(out.pred, expected)
    assert out.pooled is None and out.stages == () and out.preacts == () and out.head is None
    assert sum(p.numel() for p in body.parameters()) == sum(p.numel() for p in net.parameters())
    assert not any(p.requires_grad for p in body.parameters())


class Angle(nn.Module):
    """The label of an image in degrees: 360 times its first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return 360.0 * x[:, 0, 0, 0]


def test_labels_that_go_round_become_points_of_their_circle() -> None:
    x = torch.rand(7, 3, 16, 16)
    body = Program(as_tensor(torchscript(Angle())), shift=90.0, scale=180.0, period=2.0)
    angle = torch.deg2rad(360.0 * x[:, 0, 0, 0] - 90.0)
    torch.testing.assert_close(body(x), torch.stack([angle.cos(), angle.sin()], dim=1), atol=1e-5, rtol=0)
    net = model()  # two outputs: points already
    with torch.no_grad():
        torch.testing.assert_close(Program(as_tensor(torchscript(net)), 90.0, 180.0, 2.0)(x), net(x))


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_its_state_is_the_file_and_nothing_else(kind: str) -> None:
    data = MAKERS[kind](model())
    net = Predictor(Program(as_tensor(data)), [0.5] * 3, [0.2] * 3)
    state = net.state_dict()
    assert set(state) == {"mean", "std", "body.program", "body.shift", "body.scale"}
    assert state["body.program"].numpy().tobytes() == data


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_it_stays_where_it_was_opened_and_its_images_come_to_it(kind: str) -> None:
    net = Predictor(Program(as_tensor(MAKERS[kind](model()))), [0.5] * 3, [0.2] * 3)
    before = {name: value.clone() for name, value in net.body.state_dict().items()}
    assert net.to("meta") is net and device_of(net) == "meta", "all that can move has moved"
    assert all(torch.equal(value, before[name]) for name, value in net.body.state_dict().items())


def test_gradients_reach_the_images() -> None:
    """A student is not trained through its teacher, but a KD loss may ask how the teacher sees an image."""
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    Program(as_tensor(torchscript(model())))(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())


def test_an_exported_program_can_be_exported_again() -> None:
    net = Predictor(Program(as_tensor(exported(model()))), [0.5] * 3, [0.2] * 3).eval()
    shipped = ShippedModel(net, nn.Identity()).eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    graph = program(shipped, images).module()
    torch.testing.assert_close(graph(images[:2].float()), shipped(images[:2].float()))


def test_one_value_an_image_may_come_without_an_axis() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))

    assert Program(as_tensor(torchscript(Flat())))(torch.rand(5, 3, 4, 4)).shape == (5, 1)


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no archive", "it is neither a TorchScript file nor a torch.export archive"),
        (archive("a/readme"), "it is neither a TorchScript file nor a torch.export archive"),
        (archive("a/constants.pkl"), "it is a damaged torchscript file"),
        (archive("a/models/model.json"), "it is a damaged torch.export file"),
    ],
)
def test_what_is_no_program_is_refused(data: bytes, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=words):
        open_program(data)
    assert caplog.text == ""


def test_weights_are_no_program() -> None:
    out = io.BytesIO()
    torch.save(model().state_dict(), out)
    assert kind_of(out.getvalue()) is None
