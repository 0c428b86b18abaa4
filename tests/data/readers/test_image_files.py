from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.data.readers import image_files
from cgankd.data.readers.image_files import read_images
from tests.data.builders import data_config, save_picture


def test_threads_keep_the_order_and_name_the_first_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "READ_AHEAD", 3)
    paths = [tmp_path / f"{i:02d}.png" for i in range(20)]
    for i, path in enumerate(paths):
        save_picture(path, i)
    cfg, steps = data_config(channels=3), []
    alone, _ = read_images(paths, cfg, lambda step, values, total: steps.append((step, total)), threads=1)
    for threads in (2, 5):
        assert torch.equal(read_images(paths, cfg, lambda *_: None, threads=threads)[0], alone)
    assert steps == [(i + 1, 20) for i in range(20)]
    paths[17].write_bytes(b"bad")
    paths[4].write_bytes(paths[4].read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"04\.png cannot be read as an image"):
        read_images(paths, cfg, lambda *_: None, threads=5)
