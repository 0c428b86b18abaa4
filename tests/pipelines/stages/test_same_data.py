from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from cgankd.data.store.datasets import write_dataset
from pipelines.files.layout import STAGES
from pipelines.files.params import load_config
from pipelines.stages.same_data import info_of
from tests.conftest import ROOT
from tests.pipelines.finished import made_data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.source=image-folder", r"data\.source is image-folder, but .* made with digits"),
        ("data.image_size=32", r"data\.image_size is 32, but .* made with 16"),
        ("data.channels=3", r"data\.channels is 3, but .* made with 1"),
    ],
)
def test_a_data_set_of_other_settings_is_refused(workdir: Path, change: str, words: str) -> None:
    path = workdir / "dataset.h5"
    data = made_data(scalar=False)
    write_dataset(path, dataclasses.replace(data, info=dataclasses.replace(data.info, source="digits")))
    assert info_of(path, load_config(workdir / "params.yaml").data).source == "digits"
    with pytest.raises(ConfigError, match=words + "; run `cgankd prepare` again"):
        info_of(path, load_config(workdir / "params.yaml", [change]).data)


@pytest.mark.parametrize("name", STAGES[1:])
def test_every_stage_compares_its_data_set_with_the_settings(name: str) -> None:
    text = (ROOT / "pipelines" / "stages" / f"{name}.py").read_text()
    run, set_up = (text.partition(f"def {of}(ctx: Context)")[2].partition("\ndef ")[0] for of in ("run", "set_up"))
    assert "info_of(" in run or ("set_up(ctx)" in run and "info_of(" in set_up)
