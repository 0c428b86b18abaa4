"""Programs as generators: TorchScript and torch.export give what the module gives, and each misfit has its own sentence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cgankd.data.pixels import signed_to_u8
from cgankd.gan.own_program import Program, check_program, load_program, make_program_draw
from cgankd.rng import generator, seed_all
from tests.gan.toys import CLASSES

LABELS = torch.tensor([0, 1, 1])


class Tiny(nn.Module):
    """z [B, 8] and label [B] to images [B, 1, 16, 16] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = nn.Linear(8, 256), nn.Embedding(2, 8)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(self.body(z + self.table(label))).view(-1, 1, 16, 16)


def module() -> Tiny:
    seed_all("program")
    return Tiny().eval()


def torchscript(net: nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), stream)
    return stream.getvalue()


def exported(net: nn.Module, dynamic: bool = True) -> bytes:
    stream = io.BytesIO()
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    shapes = (batch, batch) if dynamic else None
    torch.export.save(torch.export.export(net, (torch.zeros(3, 8), LABELS), dynamic_shapes=shapes), stream)
    return stream.getvalue()


def check(program: Program) -> Tensor:
    return check_program(program, LABELS, 8, CLASSES, generator("check"), "net.pt")


@pytest.mark.parametrize(("kind", "save"), [("torchscript", torchscript), ("export", exported)])
def test_a_saved_program_draws_what_the_module_gives(kind: str, save: Callable[[nn.Module], bytes]) -> None:
    net = module()
    program = load_program(save(net), kind, "net.pt")
    assert check(program).shape == (3, 1, 16, 16)
    asked = torch.arange(2).repeat(10)
    images = make_program_draw(program, z_dim=8, shape=CLASSES, batch_size=7)(asked, generator("z"))
    with torch.no_grad():
        expected = signed_to_u8(net(torch.randn(20, 8, generator=generator("z")), asked))
    assert images.dtype == torch.uint8 and int((images.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_what_is_no_program_is_said(kind: str) -> None:
    with pytest.raises(ValueError, match=r"cgan.file 'net.pt' cannot be read as a .*; save it again"):
        load_program(b"no program", kind, "net.pt")
    other = exported(module()) if kind == "torchscript" else torchscript(module())
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(other, kind, "net.pt")


def test_a_program_of_one_batch_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cannot be called with z float32 \[1, 8\] and label int64 \[1\].*any number B"
    ):
        check(load_program(exported(module(), dynamic=False), "export", "net.pt2"))


def test_another_latent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot be called with z float32 \[1, 5\].*cgan\.z_dim"):
        check_program(module(), LABELS, 5, CLASSES, generator("check"), "net.pt")


def images(num: int, channels: int = 1, size: int = 16, value: float = 0.5) -> Tensor:
    return torch.full((num, channels, size, size), value)


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda z, y: images(len(z), size=8), r"\[8, 8\] pixels, but data.image_size is 16"),
        (lambda z, y: images(len(z), channels=3), "3 channels, but data.channels is 1"),
        (lambda z, y: images(len(z))[:, 0], r"must give images \[1, C, H, W\]"),
        (lambda z, y: images(2), r"must give images \[1, C, H, W\] for 1 labels, but gives \[2, 1, 16, 16\]"),
        (lambda z, y: images(len(z), value=float("nan")), "NaN or infinite"),
        (lambda z, y: images(len(z), value=255.0), r"pixels from 255 to 255, but they must be in \[-1, 1\]"),
        (lambda z, y: images(len(z)).to(torch.uint8), "floats in .*, but gives torch.uint8"),
        (lambda z, y: (images(len(z)), 1), "one tensor of floats.*, but gives tuple"),
        (lambda z, y: torch.rand(len(z), 1, 16, 16), "other images for the same z"),
    ],
)
def test_each_misfit_has_its_sentence(give: Program, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check(give)
    assert str(caught.value).startswith("cgan.file 'net.pt'") and "\n" not in str(caught.value)
