"""NIQE against its definition written out in loops, fits of known distributions, and what noise and blur do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.special import gamma

from cgankd.measure.niqe import asymmetric_fit, fit_natural, niqe, normalised, patches, statistics
from cgankd.rng import generator


def scenes(num: int, size: int = 64, channels: int = 3) -> torch.Tensor:
    """Images with a spectrum of 1 / f, as natural ones have."""
    rng = np.random.default_rng(num)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    f[0, 0] = 1 / size
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(num, channels, size, size))) / f).real
    noise = (noise - noise.mean((2, 3), keepdims=True)) / noise.std((2, 3), keepdims=True)
    return torch.from_numpy((128 + 50 * noise).clip(0, 255).astype(np.uint8))


def fitted(x: np.ndarray) -> tuple[float, float, float, float]:
    """The fit of one patch by its definition: the shape whose moment is nearest."""
    left, right = np.sqrt((x[x < 0] ** 2).mean()), np.sqrt((x[x > 0] ** 2).mean())
    skew, ratio = left / right, np.abs(x).mean() ** 2 / (x**2).mean()
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    grid = np.arange(200, 10001) / 1000
    moment = gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))
    a = grid[np.argmin((moment - wanted) ** 2)]
    scale = np.sqrt(gamma(1 / a) / gamma(3 / a))
    return a, (right - left) * scale * gamma(2 / a) / gamma(1 / a), left * scale, right * scale


def test_the_shape_of_known_distributions_is_found() -> None:
    gen = torch.Generator().manual_seed(0)
    gauss = torch.randn(1, 400_000, generator=gen, dtype=torch.float64)
    level = torch.rand(1, 400_000, generator=gen, dtype=torch.float64) - 0.5
    laplace = -level.sign() * torch.log1p(-2 * level.abs())
    skewed = torch.where(gauss < 0, gauss, 3 * gauss)
    assert [float(v) for v in asymmetric_fit(gauss)] == pytest.approx([2, 0, 2**0.5, 2**0.5], abs=0.03)
    assert [float(v) for v in asymmetric_fit(laplace)] == pytest.approx([1, 0, 1, 1], abs=0.03)
    assert float(asymmetric_fit(skewed)[3] / asymmetric_fit(skewed)[2]) == pytest.approx(3, rel=0.02)


def test_statistics_are_those_of_the_definition() -> None:
    image = scenes(1)[0]
    grey = np.tensordot([0.299, 0.587, 0.114], image.double().numpy(), 1)
    at = np.arange(-3, 4)
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = correlate(grey, window, mode="nearest")
    sd = np.sqrt(np.abs(correlate(grey**2, window, mode="nearest") - mean**2))
    norm = (grey - mean) / (sd + 1)
    got, got_sd = normalised(torch.from_numpy(grey)[None])
    np.testing.assert_allclose(got[0].numpy(), norm, atol=1e-6)
    np.testing.assert_allclose(got_sd[0].numpy(), sd, atol=1e-5)
    value, sharp = statistics(image[None])
    assert value.shape == (1, 64, 36) and sharp.shape == (1, 64)
    for number in (0, 9, 63):
        top, low = 8 * (number // 8), 8 * (number % 8)
        here = slice(top, top + 8), slice(low, low + 8)
        shape, _, left, right = fitted(norm[here])
        expected = [shape, (left + right) / 2]
        for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
            expected += fitted((norm * np.roll(norm, (down, across), (0, 1)))[here])
        assert value[0, number, :18].numpy() == pytest.approx(expected, abs=2e-3)
        assert float(sharp[0, number]) == pytest.approx(sd[here].mean(), abs=1e-5)


def test_patches_are_read_left_to_right() -> None:
    found = patches(torch.arange(64.0).reshape(1, 8, 8), 4)
    assert found.shape == (1, 4, 16)
    assert found[0, 1, :4].tolist() == [4, 5, 6, 7] and found[0, 2, 0] == 32


def test_the_distance_is_the_formula_and_real_images_are_the_nearest() -> None:
    real, other = scenes(40), scenes(20)
    model = fit_natural(real)
    value = niqe(other, model)
    own, _ = statistics(other)
    a, cov = own[3].mean(0).numpy(), np.cov(own[3].numpy().T)
    between = np.linalg.pinv((cov + model.covariance.numpy()) / 2)
    away = a - model.mean.numpy()
    assert float(value[3]) == pytest.approx(float(np.sqrt(away @ between @ away)), rel=1e-4)
    noisy = (other + 60 * torch.randn(other.shape, generator=generator("noise"))).clamp(0, 255).to(torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(other.float(), 5, 1, 2).to(torch.uint8)
    for worse in (noisy, blurred):
        assert float(niqe(worse, model).mean()) > 1.3 * float(value.mean())


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (128, 3)])
def test_any_size_and_colour_has_a_finite_number_flat_images_too(size: int, channels: int) -> None:
    model = fit_natural(scenes(12, size, channels))
    flat = torch.full((2, channels, size, size), 90, dtype=torch.uint8)
    assert bool(torch.isfinite(niqe(torch.cat([flat, scenes(2, size, channels)]), model)).all())
