"""What a rank says of a mistake that it may have found alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.commands import ranks
from pipelines.commands.app import app, main
from pipelines.locks.ranks import MET

RANK = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long this second of two ranks waited."""
    found = list[float]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ranks.time, "sleep", found.append)
    for name, value in RANK.items():
        monkeypatch.setenv(name, value)
    MET.clear()
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["search"],
        ["run"],
        ["sizes"],
        ["repeat"],
        ["serve"],
        ["doctor"],
        ["distillers"],
        ["nothing"],
        ["teacher", "--no"],
    ],
    ids=str,
)
def test_who_is_not_ended_by_the_first_speaks(
    slept: list[float], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(said) == 1 and said[0].startswith("error (rank 1): "), said
    assert slept == [ranks.WAIT_S]


def test_a_mistake_in_settings_waits_and_one_after_the_ranks_met_does_not(
    slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for waits in ([ranks.WAIT_S], [ranks.WAIT_S]):
        with pytest.raises(SystemExit):
            main(["teacher"])
        assert "error (rank 1): " in capsys.readouterr().err and slept == waits
        MET.set()
    MET.clear()


def test_a_rank_that_is_ended_meanwhile_says_nothing(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks.time, "sleep", ended)
    with pytest.raises(SystemExit) as code:
        main(["teacher"])
    assert code.value.code == 2 and capsys.readouterr().err == ""


def test_the_first_rank_of_a_machine_waits_for_nobody(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit):
        main(["search"])
    assert "error (rank 1): `cgankd search` does not run under torchrun" in capsys.readouterr().err and not slept


def test_help_and_trainings_are_let_through(slept: list[float]) -> None:
    for words in (["--help"], ["search", "--help"], ["--debug", "teacher"], []):
        ranks.check_command(words, app)
