from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cgankd.data.readers.chair_images as chair_images
from cgankd.config import ConfigError, DataConfig
from cgankd.data.readers.chair_images import RESERVED_PER_ANGLE, choose, rendered
from cgankd.data.readers.chairs import NUM_SHAPES, render
from cgankd.data.readers.sources import load
from tests.data.builders import data_config


def chairs(**changes: object) -> DataConfig:
    defaults = {
        "task": "scalar",
        "source": "chairs",
        "channels": 3,
        "train_per_label": 5,
        "num_train": 40,
        "val_per_label": None,
        "num_val": 20,
        "num_test": 30,
        "label_min": 0.0,
        "label_max": 90.0,
    }
    return data_config(**(defaults | changes))


def tenths(numbers: Tensor) -> Tensor:
    """Yaw of image numbers in tenths of a degree."""
    return numbers // NUM_SHAPES + 1


@pytest.mark.parametrize("per_angle", [1, 5, 25])
def test_protocol(per_angle: int) -> None:
    parts = choose(chairs(train_per_label=per_angle, num_train=None, num_test=None), seed=3)
    train, val, test = parts["train"], parts["val"], parts["test"]
    assert len(train) == 450 * per_angle
    counts = torch.bincount(tenths(train), minlength=900)
    assert set(counts[1::2].tolist()) == {per_angle} and int(counts[0::2].sum()) == 0
    assert bool((tenths(val) % 2 == 1).all())
    assert len(torch.unique(tenths(test))) == 899
    everything = torch.cat([train, val, test])
    assert len(torch.unique(everything)) == len(everything)


def test_training_sets_are_nested_and_the_test_set_does_not_depend_on_them() -> None:
    small = choose(chairs(num_train=40), seed=1)
    large = choose(chairs(num_train=200), seed=1)
    more = choose(chairs(train_per_label=RESERVED_PER_ANGLE, num_train=None), seed=1)
    assert torch.equal(large["train"][:40], small["train"])
    assert set(large["train"].tolist()) <= set(more["train"].tolist())
    for part in ("val", "test"):
        assert torch.equal(small[part], large[part]) and torch.equal(small[part], more[part])
    assert not torch.equal(small["test"], choose(chairs(), seed=2)["test"])
    assert torch.equal(choose(chairs(num_test=60), seed=1)["test"][:30], small["test"])


def test_data_set_holds_the_pictures_of_its_labels() -> None:
    cfg = chairs()
    data = load(cfg, 7)
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 40, "val": 20, "test": 30}
    assert data.info.kind == "scalar" and data.info.label_unit == "degrees"
    assert (data.info.label_min, data.info.label_max) == (0.0, 90.0)
    numbers = choose(cfg, 7)
    for name, split in data.splits().items():
        assert split.labels.dtype == torch.float32
        for row in (0, len(split) - 1):
            number = int(numbers[name][row])
            yaw = (number // NUM_SHAPES + 1) / 10
            assert float(split.labels[row]) == pytest.approx(yaw, abs=1e-5)
            np.testing.assert_array_equal(split.images[row].numpy(), render(number % NUM_SHAPES, yaw, 16))
    pixels = data.train.images.double() / 255
    np.testing.assert_allclose(data.info.pixel_mean, pixels.mean((0, 2, 3)).numpy(), atol=1e-9)
    np.testing.assert_allclose(data.info.pixel_std, pixels.std((0, 2, 3), correction=0).numpy(), atol=1e-9)


def test_cache_renders_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(shape: int, yaw: float, size: int) -> np.ndarray:
        calls.append(shape)
        return render(shape, yaw, size)

    monkeypatch.setattr(chair_images, "render", counted)
    monkeypatch.setattr(chair_images, "SAVE_EVERY", 4)
    numbers = torch.tensor([40, 3, 1000, 44000, 7, 9])
    first = rendered(numbers, 16, cache=tmp_path)
    assert len(calls) == 6
    assert torch.equal(rendered(numbers.flip(0), 16, cache=tmp_path), first.flip(0)) and len(calls) == 6
    again = rendered(torch.tensor([5, 3]), 16, cache=tmp_path)
    assert len(calls) == 7 and torch.equal(again[1], first[1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    plain = rendered(torch.tensor([5, 3]), 16)
    assert torch.equal(plain, again)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other shape", "objects"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    numbers = torch.tensor([1, 2, 3])
    good = rendered(numbers, 16, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        pictures = np.zeros((3, 3, 8, 8), np.uint8) if damage == "other shape" else np.array([None] * 3)
        np.savez(path, numbers=numbers.numpy(), pictures=pictures)
    assert torch.equal(rendered(numbers, 16, cache=tmp_path), good)
    assert torch.equal(rendered(numbers, 16, cache=tmp_path), good)


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    rendered(torch.arange(12), 16, log=lambda step, values, total: seen.append((step, total)))
    assert seen[-1] == (12, 12) and [step for step, _ in seen] == sorted({step for step, _ in seen})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 1}, "data.channels must be 3"),
        ({"train_per_label": 26}, "data.train_per_label must be at most 25"),
        ({"num_val": None, "val_per_label": 3}, "data.num_val must be set"),
        ({"num_val": 10801}, "data.num_val must be at most 10800"),
        ({"test_share": 0.2}, "data.test_share must be null"),
        ({"label_max": 45.0}, "data.label_max 45 is below the"),
        ({"label_min": 45.0}, "data.label_min 45 is above the"),
    ],
)
def test_settings_that_cannot_be_met(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(chairs(**changes), 0)
