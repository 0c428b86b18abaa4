from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cgankd.config import Config, ConfigError
from pipelines.files.artifacts import save_weights
from pipelines.runtime.opening import open_context
from pipelines.stages import bank

WIDE = {"kappa": 12.0, "largest_gap": 6.0, "median_gap": 3.0, "span": 90.0}


def files(folder: Path) -> bank.Inputs:
    """Where the files of a bank lie."""
    names = ("teacher", "cgan", "ratio")
    return bank.Inputs(folder / "dataset.h5", *(folder / f"{name}.safetensors" for name in names))


def test_a_kernel_too_wide_is_refused_by_the_bank_and_only_where_it_refuses(workdir: Path) -> None:
    inputs = files(workdir / "artifacts")
    health = {"fake": 1.0, "real": 1.0}
    save_weights(inputs.ratio, {"x": torch.ones(1)}, {"health": {}})
    for kernel, refuse, refused in (
        ({}, "true", False),
        ({"kernel": WIDE}, "false", False),
        ({"kernel": WIDE}, "true", True),
    ):
        save_weights(inputs.cgan, {"x": torch.ones(1)}, {"health": health | kernel})
        text = io.StringIO()
        with open_context("bank", [f"bank.refuse_worthless={refuse}"], workdir, console=Console(file=text)) as ctx:
            if refused:
                with pytest.raises(ConfigError, match=r"worthless: kappa = 12.*bank\.refuse_worthless: false goes on"):
                    bank.refuse_worthless(ctx, inputs, ["raw"])
            else:
                bank.refuse_worthless(ctx, inputs, ["raw"])
        assert ("covers 27 %" in text.getvalue()) == bool(kernel)


def test_a_bank_tells_its_whole_making_and_nothing_of_the_students(tmp_path: Path, digits_config: Config) -> None:
    inputs = files(tmp_path)
    save_weights(inputs.cgan, {"x": torch.ones(1)}, {"cgan": {"width": 7}})
    save_weights(inputs.ratio, {"x": torch.ones(1)}, {"ratio": {"num_steps": 9}})

    def made(cfg: Config) -> dict[str, str | int | float]:
        return bank.made_from(cfg.data, cfg.seed, inputs)

    found = made(digits_config)
    assert found["seed"] == digits_config.seed
    assert json.loads(str(found["config.cgan"])) == {"width": 7}
    assert json.loads(str(found["config.ratio"])) == {"num_steps": 9}
    assert json.loads(str(found["config.data"]))["source"] == "digits" and "root" not in str(found["config.data"])
    moved = dataclasses.replace(
        digits_config,
        data=dataclasses.replace(digits_config.data, root="elsewhere", memory_budget_gb=1.0),
        student=dataclasses.replace(digits_config.student, num_steps=3),
    )
    assert made(moved) == found
    more = dataclasses.replace(digits_config, data=dataclasses.replace(digits_config.data, num_train=20), seed=5)
    assert made(more) != found
