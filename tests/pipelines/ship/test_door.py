"""What goes through the door of `serve`: as many images a request as surely fit, and no other numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pipelines.ship.door import MAX_BODY, Refused, images_a_request, images_of


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 256, 256)])
def test_a_request_of_the_longest_numbers_fits(shape: tuple[int, ...]) -> None:
    count = images_a_request(shape)
    one = json.dumps(np.full(shape, 255.0).tolist())
    assert count * (len(one) + 2) + len('{"inputs": []}') <= MAX_BODY
    assert count >= MAX_BODY // (20 * math.prod(shape)), "and not many less than fit"


def test_images_come_through_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4))
    found = images_of(json.dumps({"inputs": images.tolist()}).encode(), (2, 4, 4))
    assert found.dtype == np.float32 and np.array_equal(found, images)


@pytest.mark.parametrize("value", [-1, 256, "1", None, [1], 1e999])
def test_a_number_that_is_no_level_is_refused(value: object) -> None:
    images = np.zeros((1, 1, 2, 2)).tolist()
    images[0][0][1][1] = value
    with pytest.raises(Refused) as refused:
        images_of(json.dumps({"inputs": images}).encode(), (1, 2, 2))
    assert refused.value.status == 400
