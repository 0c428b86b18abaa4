"""What `cgankd search` says where it cannot work, and its picture of the history."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from typer.testing import CliRunner

from cgankd.config import ConfigError
from pipelines.commands.app import app
from pipelines.pictures import search as pictures_search
from pipelines.search import study as studies
from pipelines.search.config import SearchedConfig, load_searched, searched_config
from pipelines.search.space import (
    check_space,
    first_difference,
    identity,
    overruled,
    settings_changed,
    with_searched_arm,
)
from pipelines.search.storage import storage_url
from tests.tiny import write_params

INVOKE = CliRunner()


def search_config(values: dict[str, Any], **section: Any) -> SearchedConfig:
    values["search"] |= section
    return searched_config(values)


def test_an_automatic_arm_is_the_same_as_one_written_out(digits: dict[str, Any]) -> None:
    knob = {"student.soft_weight": {"kind": "float", "low": 0.1, "high": 0.9}}
    cfg = search_config(digits, arm="raw_kd", space=knob)
    found = with_searched_arm(cfg)
    assert check_space(found) == [], "KD is on, so the weight matters"
    digits["student"]["arms"]["raw_kd"] = {"bank": True, "kd": True}
    written = search_config(digits)
    assert with_searched_arm(written) is written
    assert first_difference(identity(found, "d"), identity(written, "d")) is None
    for arm in ("real_kd_kd", "raw_kd_kd", "raw_dk"):
        with pytest.raises(ConfigError, match=rf"subsample_kd, filter_kd\), but is '{arm}'"):
            check_space(with_searched_arm(search_config(digits, arm=arm)))


@pytest.mark.parametrize("words", [["best"], ["curves"], ["apply"], ["dashboard"]])
def test_a_study_that_is_not_begun_leaves_no_file(
    workdir: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CGANKD_SEARCH_STORAGE", raising=False)
    monkeypatch.setattr("pipelines.search.run.base_files", lambda *_: {"dataset": workdir})
    monkeypatch.setattr("pipelines.search.run.read_info", lambda _: None)
    monkeypatch.setattr("pipelines.search.run.make_task", lambda *_: type("T", (), {"headline": None}))
    done = INVOKE.invoke(app, ["search", *words])
    assert done.exit_code == 2, done.output
    assert "there is no study yet (search.db is missing); run `cgankd search` first" in done.stderr
    assert not (workdir / "artifacts").exists()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("notaurl", ["must be the URL of a database, such as sqlite:///search.db", "'notaurl'"]),
        ("nodb://host/x", ["must be the URL of a database", "'nodb://host/x'"]),
        ("postgresql:me:hush@host/x", ["must be the URL", "but is what is given"]),
        ("sqlite:////nonexist/a.db", ["there is no folder /nonexist; make it, or give another URL"]),
    ],
)
def test_a_wrong_storage_is_named_with_an_example(
    workdir: Path, digits: dict[str, Any], url: str, parts: list[str]
) -> None:
    by_hand = search_config(digits).search
    with pytest.raises(ConfigError, match=r"^--storage \(or CGANKD_SEARCH_STORAGE\)") as given:
        storage_url(workdir, by_hand, url)
    assert all(part in str(given.value) for part in parts) and "hush" not in str(given.value)
    if "hush" not in url:
        with pytest.raises(ConfigError, match=r"^search\.storage") as written:
            storage_url(workdir, search_config(digits, storage=url).search, None)
        assert all(part in str(written.value) for part in parts)


def test_a_right_storage_passes(workdir: Path, digits: dict[str, Any]) -> None:
    own = search_config(digits).search
    assert storage_url(workdir, own, None) == f"sqlite:///{workdir}/artifacts/search.db"
    assert storage_url(workdir, own, "sqlite:///other.db") == "sqlite:///other.db"
    assert storage_url(workdir, own, "postgres://me@host/x") == "postgresql+psycopg2://me@host/x"


def test_a_setting_that_trials_overrule_is_said(workdir: Path) -> None:
    settings = ["bank.rho=0.5", "bank.burn_in=30"]
    (notice,) = overruled(load_searched(workdir / "params.yaml", settings).search, settings)
    assert notice.startswith("--set bank.rho has no effect on trials")


def test_a_knob_can_be_set_by_hand(workdir: Path) -> None:
    path = workdir / "params.yaml"
    found = load_searched(
        path, ["search.space.bank.rho.high=0.8", "search.space.bank.num_fakes={kind: int, low: 1, high: 2}"]
    )
    assert found.search.space["bank.rho"].high == 0.8 and found.search.space["bank.rho"].low == 0.3
    assert found.search.space["bank.num_fakes"].high == 2 and len(found.search.space) == 5
    with pytest.raises(
        ConfigError, match=r"search\.space\.bank\.rhoo\.high cannot be set.*bank\.rho.*into params\.yaml"
    ):
        load_searched(path, ["search.space.bank.rhoo.high=0.9"])


def test_the_history_is_scaled_to_full_students() -> None:
    complete = {0: 13.0, 3: 12.5, 5: 12.0, 9: 14.0}
    pruned = {"1/9 of the steps": [1, 2, 11], "1/3 of the steps": [4], "": [7]}
    figure = pictures_search.history(complete, pruned, 0, "validation error (%)", higher=False)
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    assert 11 < low < 12.0 and 14.0 < high < 15
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["best so far"].get_xdata()) == [0, 3, 5, 9, 11]
    assert list(lines["best so far"].get_ydata()) == [13.0, 12.5, 12.0, 12.0, 12.0]
    assert list(lines["pruned after 1/9 of the steps (3)"].get_xdata()) == [1, 2, 11]
    assert "could not be trained (1)" in lines
    shades = [line.get_alpha() for label, line in lines.items() if label.startswith("pruned")]
    assert shades == sorted(shades) and shades[0] < shades[1]
    legend = axes.get_legend()
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0, "the legend is outside the data"


@pytest.mark.parametrize("arm", ["filter", "filter_kd"])
@pytest.mark.parametrize(
    ("choices", "student", "words"),
    [
        (["kd", "dkdd"], {}, r"search\.space\.student\.distiller .*student\.distiller must be one of .*mean 'dkd'"),
        (
            ["kd", "crd"],
            {"distiller_options": {"soft_weight": 0.5}},
            r"search\.space\.student\.distiller .*student\.distiller_options\.soft_weight is not an option of crd",
        ),
        (
            ["kd", "sskd"],
            {
                "teacher_view": "clean",
                "arms": {"real": {}, "filter": {"bank": True, "subsample": True, "filter": True}},
            },
            r"search\.space\.student\.distiller .*teacher_view must be augmented",
        ),
    ],
)
def test_a_kd_loss_that_cannot_be_is_refused_before_the_first_trial(
    digits: dict[str, Any], arm: str, choices: list[str], student: dict[str, Any], words: str
) -> None:
    digits["student"] |= student
    knob = {"student.distiller": {"kind": "categorical", "choices": choices}}
    with pytest.raises(ConfigError, match=words):
        check_space(with_searched_arm(search_config(digits, arm=arm, space=knob)))


def test_a_knob_of_the_section_does_nothing_for_an_arm_with_its_own_loss(digits: dict[str, Any]) -> None:
    section = {"student.distiller": {"kind": "categorical", "choices": ["kd", "dkd"]}}
    arm = {"student.arms.own.distiller": {"kind": "categorical", "choices": ["fitnet", "dkd"]}}
    digits["student"]["arms"]["own"] = {"bank": True, "kd": True, "distiller": "dkd"}
    assert check_space(search_config(digits, arm="own", space=section)) == [
        "student.distiller does nothing for the arm 'own': it names a KD loss of its own"
    ]
    assert check_space(search_config(digits, arm="own", space=arm)) == []
    assert check_space(search_config(digits, arm="filter", space=section)) == [
        "student.distiller does nothing for the arm 'filter': its kd or strong is off"
    ]
    arm["student.arms.own.distiller"]["choices"] = ["fitnett", "dkd"]
    with pytest.raises(ConfigError, match=r"student\.arms\.own\.distiller must be one of .*mean 'fitnet'"):
        check_space(search_config(digits, arm="own", space=arm))


def test_a_database_that_is_cut_off_is_named_with_the_way_to_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    url = f"sqlite:///{path}"
    studies.connect(tmp_path, url).engine.dispose()
    good = path.read_bytes()
    for data in (good[: len(good) // 2], good[:100], b"x" * 500):
        path.write_bytes(data)
        with pytest.raises(
            ConfigError, match=r"search\.db is no whole database .* move it away and run `cgankd search`"
        ):
            studies.connect(tmp_path, url)


def test_settings_that_change_under_a_search_are_said(
    tmp_path: Path, digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.search import run as search

    write_params(tmp_path, digits)
    monkeypatch.chdir(tmp_path)
    overrides = ("bank.rho=0.5",)
    cfg = with_searched_arm(load_searched(tmp_path / "params.yaml", overrides))
    monkeypatch.setattr(
        search, "open_search", lambda *given: (SimpleNamespace(cfg=cfg, workdir=tmp_path, settings=overrides), [])
    )
    monkeypatch.setattr(search, "run", lambda *given: None)
    assert INVOKE.invoke(app, ["search"]).output == ""

    def edit(*given: Any) -> None:
        write_params(tmp_path, digits | {"seed": digits["seed"] + 1})

    monkeypatch.setattr(search, "run", edit)
    said = INVOKE.invoke(app, ["search"]).output
    assert said == (
        f"warning: params.yaml changed while `cgankd search` ran: seed {cfg.seed} is now {cfg.seed + 1};"
        " the trials are of the former settings\n"
    )
    (tmp_path / "params.yaml").write_text("seed: [")
    assert "it cannot be read" in str(settings_changed(cfg, tmp_path / "params.yaml", overrides))


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("database or disk is full", "make room there"),
        ("attempt to write a readonly database", "get leave to write there"),
    ],
)
def test_a_database_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, cure: str
) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise sqlalchemy.exc.OperationalError("insert", {}, Exception(said))

    monkeypatch.setattr(studies, "RDBStorage", full)
    with pytest.raises(ConfigError, match=rf"search\.db cannot be written \({said}\); {cure}") as caught:
        studies.connect(tmp_path, f"sqlite:///{tmp_path}/search.db")
    assert "--storage" not in str(caught.value)
