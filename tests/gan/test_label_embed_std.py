"""The first gains of a generator's norms, whose sd follows from that of its label embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgankd.config import config_from_dict
from cgankd.nets.gans.label_embed import ClassEmbed, ScalarEmbed, with_std
from cgankd.nets.gans.zoo import make_generator
from pipelines.files.params import read_values
from tests.conftest import ROOT


@pytest.mark.parametrize("preset", ["cifar10-10k", "cifar100"])
def test_the_first_gains_of_the_papers_generators_have_the_published_sd(preset: str) -> None:
    cfg = config_from_dict(read_values(Path(ROOT, "pipelines/presets", f"{preset}.yaml"))).cgan
    cfg = replace(cfg, spectral_gains=False, width=16)
    torch.manual_seed(0)
    net = make_generator(cfg, 3, 32)
    h_BE = with_std(ClassEmbed(100, cfg.embed_dim), cfg.embed_std)(torch.arange(100))
    found = [layer(h_BE) for name, layer in net.named_modules() if name.endswith("gain_shift")]
    assert found and all(float(values.detach().std()) == pytest.approx(0.02, rel=0.1) for values in found)
    assert 0.02 * cfg.embed_std * math.sqrt(cfg.embed_dim) == pytest.approx(0.02, rel=1e-3)


def test_only_tables_of_classes_are_scaled() -> None:
    torch.manual_seed(0)
    scalar = ScalarEmbed(16, 0.0, 1.0)
    before = {name: value.clone() for name, value in scalar.state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in with_std(scalar, 0.1).state_dict().items())
    table = ClassEmbed(5, 16)
    kept = table.table.weight.clone()
    assert torch.equal(with_std(table, 1.0).table.weight, kept)
    assert torch.allclose(with_std(table, 0.5).table.weight, kept / 2)
