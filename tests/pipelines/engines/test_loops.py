"""Jobs beside each other: how a worker ends whose parent is gone, and one with an error of the user's."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

from cgankd.config import ConfigError
from pipelines.engines import loops


@pytest.fixture(autouse=True)
def disposition() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_worker_whose_parent_is_gone_ends_without_a_traceback() -> None:
    """The system's word comes before the job begins; as an exception it would be a traceback of the process."""
    begun = list[Any]()
    with pytest.raises(SystemExit) as ended:
        loops._loop(lambda job: begun.append(job) or [], 1, os.getpid())  # whose parent has another number
    assert ended.value.code == 130 and not begun
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "what comes at its exit ends it without a word"


def test_a_worker_with_an_error_of_the_users_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "end_with_parent", lambda parent: None)

    def refuse(job: Any) -> list[str]:
        raise ConfigError("bank.rho must be at most 1")

    with pytest.raises(SystemExit) as ended:
        loops._loop(refuse, 1, os.getppid())
    assert ended.value.code == "error: bank.rho must be at most 1"


def test_a_worker_on_a_full_disk_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "end_with_parent", lambda parent: None)

    def fill(job: Any) -> list[str]:
        raise OSError(errno.ENOSPC, "No space left on device", "/a/b.h5")

    with pytest.raises(SystemExit) as ended:
        loops._loop(fill, 1, os.getppid())
    assert str(ended.value.code).startswith("error: /a/b.h5 cannot be written (No space left on device)")
