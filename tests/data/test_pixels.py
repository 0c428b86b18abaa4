from __future__ import annotations

import numpy as np
import torch

from cgankd.data.pixels import signed_to_u8, to_signed, to_unit, unit_to_signed

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_round_trip_is_the_identity_on_all_levels() -> None:
    assert torch.equal(signed_to_u8(to_signed(LEVELS)), LEVELS)
    assert torch.equal(signed_to_u8(unit_to_signed(to_unit(LEVELS))), LEVELS)


def test_ranges_and_types() -> None:
    np.testing.assert_allclose(to_unit(LEVELS).numpy(), np.linspace(0, 1, 256), atol=1e-7)
    np.testing.assert_allclose(to_signed(LEVELS).numpy(), np.linspace(-1, 1, 256), atol=1e-6)
    assert to_unit(LEVELS).dtype == to_signed(LEVELS).dtype == torch.float32


def test_conversion_to_levels_rounds_to_nearest_and_clamps() -> None:
    step = 2.0 / 255.0
    signed = torch.tensor([-7.0, -1.0 + 0.4 * step, -1.0 + 0.6 * step, 1.0 - 0.4 * step, 1.5])
    assert signed_to_u8(signed).tolist() == [0, 0, 1, 255, 255]
    assert signed_to_u8(signed.bfloat16()).dtype == torch.uint8


def test_inputs_are_not_changed() -> None:
    signed = to_signed(LEVELS)
    before = signed.clone()
    signed_to_u8(signed)
    unit_to_signed(signed)
    assert torch.equal(signed, before)
