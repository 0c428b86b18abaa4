from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgankd.config import Config, ConfigError, config_from_dict, to_dict
from pipelines.files.params import (
    flatten,
    lay_over,
    load_config,
    preset_names,
    preset_text,
    read_params,
    set_value,
    write_preset,
)
from pipelines.files.writing import DiskError
from tests.conftest import preset

KEYS = st.text("abcde_", min_size=1, max_size=4)
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1e6, 1e6) | st.text("xyz ", max_size=4)
TREES = st.recursive(LEAVES, lambda below: st.dictionaries(KEYS, below, min_size=1, max_size=3), max_leaves=8)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_its_name(name: str, tmp_path: Path) -> None:
    write_preset(name, tmp_path / "params.yaml")
    config = load_config(tmp_path / "params.yaml")
    assert isinstance(config, Config) and config.tracking.preset == name
    assert config_from_dict(to_dict(config)) == config


def test_settings_are_laid_over_as_yaml(workdir: Path) -> None:
    config = load_config(
        workdir / "params.yaml",
        [
            "bank.rho=0.8",
            "teacher.learning_rate=1e-06",
            "student.seeds=[3, 4]",
            "data.num_train=40",
            "bank.filter=false",
        ],
    )
    assert (config.bank.rho, config.teacher.learning_rate) == (0.8, 1e-6)
    assert (config.student.seeds, config.data.num_train, config.bank.filter) == ((3, 4), 40, False)
    assert config.cgan == config_from_dict(preset("digits")).cgan


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("cgan.wdth=3", ["cgan.wdth", "nearest", "cgan.width"]),
        ("bnak.rho=0.5", ["bnak", "bank"]),
        ("bank.rho=2", ["bank.rho", "(0, 1]", "2"]),
        ("bank.rho=abc", ["bank.rho", "a number", "abc"]),
        ("bank.rho", ["bank.rho=0.8", "'bank.rho'"]),
        ("=3", ["bank.rho=0.8"]),
        ("bank..rho=3", ["bank.rho=0.8"]),
        ("bank.rho.deep=1", ["bank.rho is a single value", "bank.rho.deep"]),
        ("bank.rho=[1", ["the value of bank.rho", "line 1"]),
    ],
)
def test_bad_settings_name_the_field_and_the_cure(workdir: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(workdir / "params.yaml", [override])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: 0\nbank:\n  rho: 1\n  rho: 2\n", ["params.yaml, line 4", "duplicate key"]),
        ("seed: 0\nbank: {rho: 1\ncgan: 3\n", ["params.yaml, line 3"]),
        ("- 1\n", ["must be a mapping"]),
        ("", ["must be a mapping"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["params.yaml"]),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_params(path)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cgankd use PRESET.*digits"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_params(tmp_path / "params.yaml")


def test_yaml_words_are_those_of_version_1_2(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: no\nb: on\nc: 1e-6\nd: 0o10\ne: true\n")
    assert read_params(path) == {"a": "no", "b": "on", "c": 1e-6, "d": 8, "e": True}


@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=3), LEAVES, st.data())
def test_laying_over_changes_one_setting_only(values: dict[str, Any], leaf: Any, data: st.DataObject) -> None:
    before = flatten(values)
    name = data.draw(st.sampled_from(sorted(before)))
    changed = copy.deepcopy(values)
    lay_over(changed, f"{name}={json.dumps(leaf)}")
    assert flatten(changed) == before | {name: leaf}


def test_a_preset_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert write_preset("digits", path) is None
    assert write_preset("digits", path) is None and list(tmp_path.iterdir()) == [path]
    path.write_text("mine: 1\n")
    first = write_preset("digits", path)
    second = write_preset("chairs", path)
    assert first is not None and second is not None
    assert (first.name, first.read_text()) == ("params.yaml.bak-1", "mine: 1\n")
    assert (second.name, second.read_text()) == ("params.yaml.bak-2", preset_text("digits"))
    assert path.read_text() == preset_text("chairs") and len(list(tmp_path.iterdir())) == 3


def test_a_former_file_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("mine: 1\n")

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given[0]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskError, match=r"params\.yaml\.bak-1 cannot be written \(No space left"):
            write_preset("digits", path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("params.yaml", "mine: 1\n")]


def test_an_unknown_preset_names_the_nearest_and_changes_nothing(workdir: Path) -> None:
    before = (workdir / "params.yaml").read_bytes()
    with pytest.raises(ConfigError, match="did you mean chairs"):
        write_preset("chair", workdir / "params.yaml")
    with pytest.raises(ConfigError, match="no preset"):
        write_preset("../digits", workdir / "params.yaml")
    assert (workdir / "params.yaml").read_bytes() == before


def test_set_value_keeps_comments_and_all_else(workdir: Path) -> None:
    path = workdir / "params.yaml"
    before, values = path.read_text().splitlines(), read_params(path)
    set_value(path, "bank.rho", 0.75)
    set_value(path, "student.arms.real_kd.kd", False)
    values["bank"]["rho"] = 0.75
    values["student"]["arms"]["real_kd"]["kd"] = False
    assert read_params(path) == values
    after = path.read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [b.strip() for _, b in changed] == ["rho: 0.75", "real_kd: {kd: false}"]
    with pytest.raises(ConfigError, match=r"bank\.rhoo is not in params\.yaml"):
        set_value(path, "bank.rhoo", 1)
