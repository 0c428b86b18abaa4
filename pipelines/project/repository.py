"""git and DVC in a new project, with a first commit, whatever the user's own git is set to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cgankd.config import ConfigError
from pipelines.files.dvc_lock import LOCK, lacks, lock_cure, read_lock
from pipelines.files.params import write_text
from pipelines.project.finding import Finding

WHO = {"user.name": "cgankd", "user.email": "cgankd@localhost"}
"""The author of the first commit where the user has given git no name of theirs."""
OTHER_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
"""What git sets for a command inside of a hook or an alias: it would go to that repository instead of the new one."""
PLAIN = {"GIT_DEFAULT_HASH": "sha1", "GIT_DEFAULT_REF_FORMAT": "files", "DVC_NO_ANALYTICS": "1"}
"""The format of a repository that DVC reads."""
ADDING = {"core.safecrlf": "false", "core.excludesFile": os.devnull}
"""All files of the project go into it, also those that the user ignores elsewhere."""
COMMITTING = {"commit.gpgsign": "false", "core.hooksPath": os.devnull}
"""The first commit is not the user's work: it is not signed, and their hooks do not look at it."""


def check_git() -> None:
    """Raise ConfigError where git is missing or cannot read its own settings, before anything is written."""
    if shutil.which("git") is None:
        raise ConfigError("git is not installed; a project needs it")
    done = subprocess.run(
        ["git", "config", "--list"], env=environment(), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise ConfigError(
            f"git cannot read its own settings: {' '.join(done.stderr.split())[-300:]}; correct that file"
        )


def make_repository(folder: Path, data: str | None, message: str, say: Callable[[str], None]) -> None:
    """git and DVC in a folder with files, `data` kept by DVC, and a first commit, which may be left to the user.

    Raises ConfigError where git or DVC fail before that.
    """
    git(folder, {"init.defaultBranch": "main"}, "init", "--quiet")
    dvc(folder, "init")
    write_text(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")
    if data is not None:
        dvc(folder, "add", data)
    git(folder, ADDING, "add", "--all")
    missing = {key: value for key, value in WHO.items() if not known(folder, key)}
    try:
        git(folder, COMMITTING | missing, "commit", "--quiet", "--no-verify", "--message", message)
    except ConfigError as error:
        say(f"{folder} is a git and DVC repository, its first commit is left to you: {error}")
        return
    say(f"{folder} is a git and DVC repository with a first commit")


def look_at_lock(workdir: Path) -> list[Finding]:
    """What the doctor finds of dvc.lock, which must be as DVC writes it; nothing where there is none yet."""
    if not os.path.lexists(workdir / LOCK):
        return []
    try:
        why = lacks(read_lock(workdir), whole=True)
    except ConfigError as error:
        text, _, cure = str(error).rpartition("; ")
        return [Finding(LOCK, "problem", text, cure)]
    if why is not None:
        return [Finding(LOCK, "problem", f"{LOCK} is damaged ({why})", lock_cure(workdir))]
    return [Finding(LOCK, "ok", "what DVC knows of the stages")]


def known(folder: Path, key: str) -> bool:
    """Whether the user has told git this part of their name."""
    done = subprocess.run(
        ["git", "config", key], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and bool(done.stdout.strip())


def git(folder: Path, settings: Mapping[str, str], *words: str) -> None:
    """Run git in a folder under settings of our own. Raises ConfigError where it fails."""
    # Also on a disk whose files seem to be somebody else's: the folder was made a moment ago.
    own = {"safe.directory": "*", **settings}
    options = [part for key, value in own.items() for part in ("-c", f"{key}={value}")]
    run(folder, ["git", *options, *words], f"git {' '.join(words)}")


def dvc(folder: Path, *words: str) -> None:
    """Run DVC in a folder. Raises ConfigError where it fails."""
    run(folder, [sys.executable, "-m", "dvc", *words], f"dvc {' '.join(words)}")


def is_up_to_date(folder: Path) -> bool:
    """Whether DVC finds all stages of a work folder made under its settings, data and code; False where there is no DVC."""
    words = [sys.executable, "-m", "dvc", "status", "--quiet"]
    lock, ours = folder / "dvc.lock", environment()
    return (
        lock.exists() and subprocess.run(words, cwd=folder, env=ours, capture_output=True, check=False).returncode == 0
    )


def run(folder: Path, command: list[str], words: str) -> None:
    """Run a tool in a folder. Raises ConfigError, in these words, where it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError(f"`{words}` failed in {folder}: {' '.join(done.stdout.split())[-300:]}")


def environment() -> dict[str, str]:
    """The user's environment without what ties git to another repository."""
    return {key: value for key, value in os.environ.items() if key not in OTHER_REPOSITORY} | PLAIN
