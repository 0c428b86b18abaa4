"""SNGAN, SAGAN and BigGAN: shapes, published sizes and cost, how latent and label enter, attention, first weights, folding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cgankd.nets.gans.attention import SelfAttention
from cgankd.nets.gans.deep import DeepGrowBlock, DeepShrinkBlock
from cgankd.nets.gans.generator import ConditionalNorm
from cgankd.nets.gans.plans import BIGGAN_D, BIGGAN_G, SNGAN_D, SNGAN_G, make_plan
from cgankd.nets.gans.residual import GrowBlock
from cgankd.nets.gans.spectral import SpectralWeight, fold_spectral
from cgankd.nets.gans.zoo import make_discriminator, make_generator
from cgankd.rng import seed_all
from tests.gan.toys import gan_config

Z, E = 8, 5
ARCHS: list[dict[str, Any]] = [
    {"arch": "compact"},
    {"arch": "sngan", "spectral_g": False, "init": "n02"},
    {"arch": "sagan"},
    {"arch": "biggan"},
    {"arch": "biggan", "shared_embed": False, "attention": 8},
    {"arch": "sagan", "d_style": "flat", "spectral_gains": False, "init": "xavier"},
    {"arch": "biggan-deep", "attention": 8},
]


def pair(size: int, channels: int = 3, width: int = 2, **changes: Any) -> tuple[Any, Any]:
    cfg = gan_config(width=width, z_dim=Z, embed_dim=E, **changes)
    seed_all("pair")
    return make_generator(cfg, channels, size), make_discriminator(cfg, channels, size)


@pytest.mark.parametrize("changes", ARCHS[1:], ids=str)
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (64, 1), (128, 3)])
def test_shapes_range_and_type(size: int, channels: int, changes: dict[str, Any]) -> None:
    net_g, net_d = pair(size, channels, **changes)
    h_BE = torch.randn(3, E)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            fake = net_g(torch.randn(3, Z), h_BE)
            score = net_d(fake, h_BE)
        assert fake.shape == (3, channels, size, size) and fake.dtype == torch.float32
        assert float(fake.detach().abs().max()) <= 1
        assert score.shape == (3,) and score.dtype == torch.float32
    score.sum().backward()
    for name, weight in itertools.chain(net_g.named_parameters(), net_d.named_parameters()):
        assert weight.grad is not None, f"{name} is not used"


@pytest.mark.parametrize("changes", ARCHS, ids=str)
def test_folded_nets_give_the_same_images_and_scores(changes: dict[str, Any]) -> None:
    for size in (16, 32):
        net_g, net_d = pair(size, width=4, **changes)
        for block in (m for m in net_g.modules() if isinstance(m, SelfAttention)):
            nn.init.ones_(block.gamma)
        z_BZ, h_BE = torch.randn(4, Z), torch.randn(4, E)
        net_d(net_g(z_BZ, h_BE), h_BE)
        net_g.eval(), net_d.eval()
        with torch.no_grad():
            before = net_g(z_BZ, h_BE)
            score = net_d(before, h_BE)
            fold_spectral(net_g), fold_spectral(net_d)
            assert not any(m.spectral for m in net_g.modules() if isinstance(m, SpectralWeight))
            torch.testing.assert_close(net_g(z_BZ, h_BE), before, rtol=0, atol=1e-5)
            torch.testing.assert_close(net_d(before, h_BE), score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", ARCHS, ids=str)
def test_memory_layout_changes_no_number(changes: dict[str, Any]) -> None:
    net_g, net_d = pair(16, **changes)
    z_BZ, h_BE = torch.randn(4, Z), torch.randn(4, E)
    net_g.eval(), net_d.eval()
    with torch.no_grad():
        plain = net_g(z_BZ, h_BE)
        score = net_d(plain, h_BE)
        net_g.to(memory_format=torch.channels_last), net_d.to(memory_format=torch.channels_last)
        torch.testing.assert_close(net_g(z_BZ, h_BE), plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net_d(plain.contiguous(), h_BE), score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", ARCHS[1:], ids=str)
def test_latent_and_label_each_change_the_image_and_the_label_the_score(changes: dict[str, Any]) -> None:
    net_g, net_d = pair(16, width=4, **(changes | {"init": "ortho"}))
    z_BZ, h_BE = torch.randn(4, Z), torch.randn(4, E)
    net_g(z_BZ, h_BE)
    net_g.eval()
    fake = net_g(z_BZ, h_BE)
    assert float((net_g(z_BZ.flip(0), h_BE) - fake).detach().abs().mean()) > 1e-3
    assert float((net_g(z_BZ, h_BE.flip(0)) - fake).detach().abs().mean()) > 1e-3
    assert float((net_d(fake, h_BE.flip(0)) - net_d(fake, h_BE)).detach().abs().mean()) > 1e-4


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def expected_g(widths: list[int], start: int, cond: int, channels: int) -> int:
    """Weights of a generator counted by hand: start, blocks, last norm, last convolution."""
    total = start * widths[0] * 16 + widths[0] * 16
    for a, b in itertools.pairwise(widths):
        total += conv(a, b, 3) + conv(b, b, 3) + conv(a, b, 1) + cond * 2 * (a + b)
    return total + 2 * widths[-1] + conv(widths[-1], channels, 3)


def expected_attention(channels: int) -> int:
    return (
        2 * conv(channels, channels // 8, 1) + conv(channels, channels // 2, 1) + conv(channels // 2, channels, 1) + 1
    )


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def published(arch: str, size: int, **changes: Any) -> tuple[Any, Any]:
    """Both nets at ch = 64, z of 128 and h of 128, with the orthogonal start left out, which takes seconds here."""
    cfg = gan_config(arch=arch, width=64, z_dim=128, embed_dim=128, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "orthogonal_", lambda weight: weight)
        return make_generator(cfg, 3, size), make_discriminator(cfg, 3, size)


def test_parameter_counts_are_those_of_the_published_nets() -> None:
    net_g, net_d = published("biggan", 32)
    # 128 numbers of z in 4 parts of 32: one for the start, one for each of 3 blocks, whose norms read 128 + 32 numbers.
    assert count(net_g) == expected_g([256] * 4, 32, 128 + 32, 3) == 4_371_971
    d = conv(3, 256, 3) + conv(256, 256, 3) + conv(3, 256, 1)
    d += 3 * 2 * conv(256, 256, 3) + conv(256, 256, 1)  # the last two blocks keep size and width: no shortcut
    assert count(net_d) == d + 257 + 128 * 256 == 4_237_569

    net_g, net_d = published("sngan", 32)
    assert count(net_g) == expected_g([256] * 4, 128, 128, 3) == 4_666_883
    d = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1) + 3 * 2 * conv(128, 128, 3) + conv(128, 128, 1)
    assert count(net_d) == d + 129 + 128 * 128 == 1_070_209

    net_g, net_d = published("sagan", 64)
    plain_g, plain_d = published("sngan", 64)
    assert count(plain_g) == expected_g([1024, 512, 256, 128, 64], 128, 128, 3)
    # At 32 px the generator has 128 channels and the discriminator 64.
    assert count(net_g) - count(plain_g) == expected_attention(128)
    assert count(net_d) - count(plain_d) == expected_attention(64)


def test_the_flat_discriminators_have_the_size_of_the_authors_nets() -> None:
    """Both convolutions of a block are as wide as its output, and the head reads 4 x 4 x 1024 units: 21.66 M weights."""
    widths = [3, 64, 128, 256, 512, 1024]
    blocks = sum(conv(a, b, 3) + conv(b, b, 3) + conv(a, b, 1) for a, b in itertools.pairwise(widths))
    units = 4 * 4 * 1024
    _, net_d = published("sngan", 64, d_style="flat")
    assert count(net_d) == blocks + units + 1 + 128 * units == 21_655_233
    _, net_d = published("sagan", 64, d_style="flat")
    assert count(net_d) == 21_655_233 + expected_attention(64)
    _, pooled = published("sngan", 64)
    assert count(pooled) == pytest.approx(10.27e6, rel=1e-3)


def test_a_flat_discriminator_reads_every_place() -> None:
    """D(x, h) = psi(phi) + <V h, phi> with phi all units of the last map, written out."""
    seed_all("flat")
    _, net_d = pair(64, arch="sngan", d_style="flat")
    net_d.eval()
    x, h = torch.randn(2, 3, 64, 64), torch.randn(2, E)
    phi = torch.relu(net_d.blocks(x)).flatten(1)
    assert phi.shape == (2, 32 * 16)
    expected = net_d.psi(phi)[:, 0] + (net_d.project(h) * phi).sum(1)
    torch.testing.assert_close(net_d(x, h), expected)


def expected_deep_g(widths: list[int], cond: int) -> int:
    """Two blocks a resolution, a quarter of the channels inside, four norms of gain and shift each."""
    total = cond * widths[0] * 16 + widths[0] * 16
    for a, b in itertools.pairwise(widths):
        for out in (a, b):
            inner = a // 4
            total += conv(a, inner, 1) + 2 * conv(inner, inner, 3) + conv(inner, out, 1)
            total += 2 * cond * (a + 3 * inner)
    return total + 2 * widths[-1] + conv(widths[-1], 3, 3)


def test_biggan_deep_has_the_published_size() -> None:
    """arXiv 1809.11096: at 128 px, ch = 128 and 1000 classes about 50.4 M weights and 34.6 M; the sums are exact."""
    cfg = gan_config(arch="biggan-deep", width=128, z_dim=128, embed_dim=128, attention=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "orthogonal_", lambda weight: weight)
        net_g, net_d = make_generator(cfg, 3, 128), make_discriminator(cfg, 3, 128)
    c = 256
    attention = 2 * c * c // 8 + 2 * c * c // 2 + 1
    g = expected_deep_g([128 * n for n in (16, 16, 8, 4, 2, 1)], 256) + attention
    assert count(net_g) == g
    assert g + 1000 * 128 == pytest.approx(50.4e6, rel=0.005)
    widths = [128 * n for n in (1, 2, 4, 8, 16, 16)]
    d = conv(3, 128, 3) + attention + 2049
    for a, b in itertools.pairwise(widths):
        inner = b // 4
        for inputs in (a, b):
            d += conv(inputs, inner, 1) + 2 * conv(inner, inner, 3) + conv(inner, b, 1)
        d += conv(a, b - a, 1) if b > a else 0
    assert count(net_d) == d + 128 * 2048
    # The published one has a table of 1000 classes where ours projects h.
    assert d + 1000 * 2048 == pytest.approx(34.6e6, rel=0.005)


def test_blocks_of_biggan_deep_are_the_formulas() -> None:
    seed_all("deep")
    grow = DeepGrowBlock(8, 4, 3, up=True, spectral=False, gains=True)
    x, cond = torch.randn(5, 8, 4, 4), torch.randn(5, 3)
    inner = x
    for number, (norm, layer) in enumerate(zip(grow.norms, grow.convs, strict=True)):
        inner = torch.relu(norm(inner, cond))
        inner = inner.repeat_interleave(2, 2).repeat_interleave(2, 3) if number == 1 else inner
        inner = layer(inner)
    kept = x[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(grow(x, cond), inner + kept)
    assert [layer.kernel_size[0] for layer in grow.convs] == [1, 3, 3, 1]
    shrink = DeepShrinkBlock(4, 8, down=True).eval()
    x = torch.randn(2, 4, 8, 8)
    inner = shrink.conv3(torch.relu(shrink.conv2(torch.relu(shrink.conv1(torch.relu(x))))))
    half = x.reshape(2, 4, 4, 2, 4, 2).mean((3, 5))
    branch = shrink.conv4(torch.relu(inner).reshape(2, 2, 4, 2, 4, 2).mean((3, 5)))
    expected = branch + torch.cat([half, shrink.shortcut(half)], 1)
    torch.testing.assert_close(shrink(x), expected)


def test_gain_and_shift_maps_may_stay_without_spectral_norm() -> None:
    for arch in ("compact", "sagan", "biggan-deep"):
        net_g, _ = pair(16, arch=arch, spectral_gains=False)
        for name, layer in net_g.named_modules():
            if isinstance(layer, SpectralWeight):
                assert layer.spectral == ("gain_shift" not in name), name


def test_xavier_weights_have_the_spread_of_the_authors_nets() -> None:
    """Uniform with sd gain * sqrt(2 / (fan in + fan out)); SNGAN's gain maps have sd sqrt(1 / (3 fan in))."""
    cfg = gan_config(arch="sagan", width=32, z_dim=64, embed_dim=128, init="xavier", spectral_gains=False)
    seed_all("xavier")
    net_g = make_generator(cfg, 3, 64)
    norm = net_g.blocks[0].norm1
    assert float(norm.gain_shift.weight.detach().std()) == pytest.approx((2 / (128 + 512)) ** 0.5, rel=0.02)
    assert float(net_g.start.weight.detach().std()) == pytest.approx((2 / (64 + 8192)) ** 0.5, rel=0.02)
    assert float(net_g.blocks[0].conv1.weight.detach().std()) == pytest.approx((2 / (9 * (512 + 256))) ** 0.5, rel=0.02)
    sngan = make_generator(gan_config(arch="sngan", width=32, z_dim=64, embed_dim=128, init="xavier"), 3, 64)
    assert float(sngan.blocks[0].norm1.gain_shift.weight.detach().std()) == pytest.approx(
        (1 / (3 * 128)) ** 0.5, rel=0.02
    )
    assert float(sngan.blocks[0].conv1.weight.detach().std()) == pytest.approx((4 / (9 * (512 + 256))) ** 0.5, rel=0.02)
    assert float(sngan.blocks[0].shortcut.weight.detach().std()) == pytest.approx((2 / (512 + 256)) ** 0.5, rel=0.02)


def test_biggan_32_costs_what_it_should() -> None:
    """3.37 GFLOP an image as published, less 0.13 for shortcuts that run before the upsampling."""
    net_g, _ = published("biggan", 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net_g.eval()(torch.zeros(1, 128), torch.zeros(1, 128))
    saved = 2 * 256 * 256 * 3 * (8**2 + 16**2 + 32**2) / 4
    assert counter.get_total_flops() + saved == pytest.approx(3.37e9, rel=0.01)


def test_plans_fit_the_image_sizes() -> None:
    for table in (BIGGAN_G, SNGAN_G):
        assert all(4 * 2 ** (len(row) - 1) == size for size, row in table.items())
    for size in BIGGAN_D:
        for table in (BIGGAN_D, SNGAN_D):
            left = size >> make_plan("sngan", size, None, True).down_blocks
            assert (
                left == (8 if size <= 32 else 4)
                and len(table[size]) >= make_plan("sngan", size, None, True).down_blocks
            )
    assert [make_plan("sagan", size, None, True).attention for size in (16, 32, 64, 128)] == [8, 16, 32, 32]


def test_each_block_of_biggan_reads_a_part_of_z_of_its_own() -> None:
    net_g, _ = pair(32, arch="biggan")
    assert net_g.parts == [2, 2, 2, 2]
    z_BZ = torch.randn(4, Z, requires_grad=True)
    seen: list[torch.Tensor] = []
    for block in net_g.blocks:
        assert isinstance(block, GrowBlock)
        block.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    h_BE = torch.randn(4, E)
    net_g(z_BZ, h_BE)
    for number, cond in enumerate(seen, 1):
        torch.testing.assert_close(cond, torch.cat([h_BE, z_BZ[:, 2 * number : 2 * number + 2]], dim=1))
    uneven, _ = pair(16, arch="biggan")
    assert uneven.parts == [3, 3, 2]


def test_without_a_shared_embedding_z_enters_at_the_start_only() -> None:
    net_g, _ = pair(16, arch="biggan", shared_embed=False)
    assert net_g.start.in_features == Z
    assert {m.gain_shift.in_features for m in net_g.modules() if isinstance(m, ConditionalNorm)} == {E}


def test_attention_is_the_formula_and_starts_as_the_identity() -> None:
    seed_all("attention")
    net, x = SelfAttention(16, spectral=False), torch.randn(2, 16, 6, 6)
    assert torch.equal(net(x), x)
    nn.init.constant_(net.gamma, 0.7)
    a = x.double().numpy()

    def project(layer: Any, image: Any) -> Any:
        weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
        return np.einsum("oc,bchw->bohw", weight, image)

    def pooled(image: Any) -> Any:
        return image.reshape(*image.shape[:2], 3, 2, 3, 2).max((3, 5)).reshape(*image.shape[:2], 9)

    logits = np.einsum("bcp,bcq->bpq", project(net.query, a).reshape(2, 2, 36), pooled(project(net.key, a)))
    weight = np.exp(logits - logits.max(2, keepdims=True))
    weight /= weight.sum(2, keepdims=True)
    mixed = np.einsum("bpq,bcq->bcp", weight, pooled(project(net.value, a))).reshape(2, 8, 6, 6)
    expected = a + 0.7 * project(net.out, mixed)
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_attention_sits_at_the_resolution_asked_for() -> None:
    for size, place in ((32, 8), (32, 16), (64, 32)):
        nets = pair(size, arch="biggan", attention=place)
        for net, image in zip(nets, (torch.randn(2, Z), torch.randn(2, 3, size, size)), strict=True):
            found: list[int] = []
            blocks = [m for m in net.modules() if isinstance(m, SelfAttention)]
            assert len(blocks) == 1
            blocks[0].register_forward_hook(lambda module, args, out, found=found: found.append(out.shape[-1]))
            net(image, torch.randn(2, E))
            assert found == [place]


def test_first_weights_are_orthogonal_or_small_normal() -> None:
    for arch in ("compact", "biggan"):
        for net in pair(16, width=8, arch=arch, init="n02"):
            layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
            values = torch.cat([m.weight.detach().flatten() for m in layers])
            assert float(values.std()) == pytest.approx(0.02, rel=0.03) and abs(float(values.mean())) < 1e-3
        net_g, _ = pair(16, width=8, arch=arch)
        matrix = net_g.blocks[0].conv2.weight.flatten(1)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=1e-4, atol=1e-4)


def test_the_discriminator_is_always_spectrally_normed_and_the_generator_on_request() -> None:
    for arch in ("compact", "sngan", "sagan", "biggan"):
        net_g, net_d = pair(16, arch=arch, spectral_g=False)
        assert not any(m.spectral for m in net_g.modules() if isinstance(m, SpectralWeight))
        assert all(m.spectral for m in net_d.modules() if isinstance(m, SpectralWeight))
        layers = [m for m in pair(16, arch=arch)[0].modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert all(isinstance(m, SpectralWeight) and m.spectral for m in layers)
