"""The restart with large malloc blocks: once, for stages, on glibc, unless told otherwise."""

from __future__ import annotations

import sys

import pytest

from cgankd.config import ConfigError
from pipelines.runtime import malloc


def test_a_stage_is_due_for_a_restart_once() -> None:
    new = malloc.missing_settings({}, "glibc")
    assert new == malloc.SETTINGS | {malloc.SWITCH: malloc.RESTARTED}
    assert malloc.missing_settings(new, "glibc") == {}


@pytest.mark.parametrize(
    ("environment", "libc"), [({malloc.SWITCH: "off"}, "glibc"), ({}, ""), (malloc.SETTINGS, "glibc")]
)
def test_no_restart_where_it_is_off_unknown_or_already_set(environment: dict[str, str], libc: str) -> None:
    assert malloc.missing_settings(environment, libc) == {}


def test_settings_of_the_user_stay() -> None:
    new = malloc.missing_settings({"MALLOC_TOP_PAD_": "1"}, "glibc")
    assert "MALLOC_TOP_PAD_" not in new and "MALLOC_MMAP_THRESHOLD_" in new


def test_a_wrong_switch_is_named() -> None:
    with pytest.raises(ConfigError, match="CGANKD_MALLOC must be off or on, but is 'no'"):
        malloc.missing_settings({malloc.SWITCH: "no"}, "glibc")


def test_only_a_stage_is_restarted_with_its_own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "cgankd", "bank", "bank.rho=0.5"])
    for name in (*malloc.SETTINGS, malloc.SWITCH):
        monkeypatch.delenv(name, raising=False)
    for argv in (["doctor"], ["--help"], [], ["show", "bank"]):
        malloc.restart(("bank", "run"), argv, lambda *call: calls.append(call))
    assert calls == []
    malloc.restart(("bank", "run"), ["--debug", "bank", "bank.rho=0.5"], lambda *call: calls.append(call))
    (program, command, environment) = calls[0]
    assert (program, command[1:]) == (sys.executable, ["-m", "cgankd", "bank", "bank.rho=0.5"])
    assert malloc.SETTINGS.items() <= environment.items()
