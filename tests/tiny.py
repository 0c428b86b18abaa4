"""Tiny versions of the presets: every stage runs for real, in seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT, preset


def tiny(name: str) -> dict[str, Any]:
    """A preset cut down to a few steps; the bank is drawn although the GAN is far from trained."""
    values = preset(name)
    values["teacher"] |= {"width": 8, "num_steps": 60}
    values["cgan"] |= {"width": 8, "z_dim": 16, "embed_dim": 16, "num_steps": 12, "batch_size": 16, "ema_start": 2}
    values["ratio"] |= {
        "feature_width": 32,
        "feature_channels": 8,
        "feature_steps": 20,
        "hidden": [32, 16],
        "num_steps": 10,
        "batch_size": 32,
        "pool_size": 64,
        "pool_refresh_steps": 5,
        "eval_every_steps": 5,
        "vicinity_drop": 60.0 if name == "chairs" else None,
    }
    values["bank"] |= {
        "num_fakes": 60,
        "burn_in": 40,
        "batch_size": 64,
        "block_size": 32,
        "max_draws_factor": 400.0,
        "refuse_worthless": False,
    }
    values["student"] |= {"num_steps": 30, "seeds": [0, 1], "workers": 1, "base_steps": 20}
    arms = values["student"]["arms"]
    values["student"]["arms"] = {arm: switches for arm, switches in arms.items() if "mix" not in switches}  # for time
    values["search"] |= {"seeds": [0, 1], "num_trials": 4, "rungs": 1, "fresh_seeds": 2}
    values["search"]["space"]["bank.num_fakes"] |= {"low": 20, "high": 80}
    if name == "chairs":
        values["data"] |= {"image_size": 16, "num_train": 60, "num_val": 30, "num_test": 40}
        values["cgan"]["label_input"] |= {"image_steps": 20, "label_steps": 20, "width": 8}
        values["bank"] |= {"label_bin": 45.0, "num_conditions": 20}
    return values


def write_params(folder: Path, values: dict[str, Any]) -> None:
    """params.yaml of a work folder."""
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(values, stream)


def project(folder: Path, values: dict[str, Any]) -> Path:
    """A checkout of the working tree with its own git and DVC repository, as a user would have it."""
    folder.mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("cgankd", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    write_params(folder, values)
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "config", "user.email", "test@example.org")
    run(folder, "git", "config", "user.name", "Test")
    run(folder, "dvc", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "start")
    return folder


def unsealed(folder: Path) -> None:
    """Take away what tells that files of a project were changed by hand, for tests that change them so on purpose."""
    shutil.rmtree(folder / "artifacts" / "digests", ignore_errors=True)


def run(folder: Path, *command: str, code: int = 0, **env: str) -> str:
    """Run a command of this environment in a folder and return its output; the exit code is part of the test."""
    import os

    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site-cache"),
        "COLUMNS": "200",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert result.returncode == code, f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-6000:]}"
    return result.stdout
