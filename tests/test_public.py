"""The public face of the library: the names of `cgankd`, and the example of the documentation built on them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from scipy import stats

import cgankd
from cgankd.config import Config
from tests.conftest import ROOT


@pytest.mark.parametrize("name", cgankd.__all__)
def test_a_public_name_is_there_and_says_what_it_does(name: str) -> None:
    found = getattr(cgankd, name)
    assert found.__name__ == name and found.__doc__ and found.__module__.startswith("cgankd.")
    assert name in dir(cgankd)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train_gan'.*train_cgan"):
        _ = cgankd.train_gan


def test_the_package_imports_nothing_before_it_is_asked() -> None:
    heavy = "import sys, cgankd; print(sorted({'torch', 'numpy', 'mlflow', 'pipelines'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_door_of_earlier_installations_is_open() -> None:
    """Their console script imports `main` from pipelines.cli."""
    call = "import sys; sys.argv = ['cgankd', '--help']; from pipelines.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "teacher" in done.stdout and "evaluate" in done.stdout


def test_the_example_imports_what_stays() -> None:
    text = (ROOT / "docs" / "examples" / "bank_of_your_generator.py").read_text()
    used = {line.split()[1] for line in text.splitlines() if line.startswith(("import cgankd", "from cgankd"))}
    assert used == {"cgankd", "cgankd.config", "cgankd.types"}


def example() -> ModuleType:
    path = ROOT / "docs" / "examples" / "bank_of_your_generator.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_draws_from_the_distribution_that_its_ratio_describes(digits_config: Config) -> None:
    """Accepted levels u of the dark class have density 2 (1 - u), those of the bright one 2 u."""
    bank = replace(digits_config.bank, num_fakes=2000, bound_quantile=1.0, rho=0.8)
    found = example().build(bank)
    images, labels = found["subsample"]
    assert len(images) == 2000 and torch.bincount(labels).tolist() == [1000, 1000]
    u = images[:, 0, 0, 0].double() / 255
    for label, low, high in ((0, 2, 1), (1, 1, 2)):  # Beta(1, 2) and Beta(2, 1)
        level = u[labels == label].numpy()
        assert level.mean() == pytest.approx(1 / 3 if label == 0 else 2 / 3, abs=0.03)
        assert stats.kstest(level, stats.beta(high, low).cdf).pvalue > 0.001
    kept, asked = found["filter"]
    side = torch.where(asked == 1, 1.0, -1.0) * (kept[:, 0, 0, 0].float() / 255 - 0.5)
    assert side.min() > (torch.where(labels == 1, 1.0, -1.0) * (u - 0.5)).min()  # the filter drops the least likely
