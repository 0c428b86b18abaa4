"""The repository of a new project under what people set their git to; each test has a home of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from pipelines.project.repository import OTHER_REPOSITORY, check_git, make_repository

ME = "[user]\nname = Me\nemail = me@example.org\n"
MINE, OURS = "Me <me@example.org>", "cgankd <cgankd@localhost>"
REFUSES = "#!/bin/sh\necho no by a hook\nexit 1\n"


@pytest.fixture()
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without settings; the folder of the test is $TOP in those that a test writes."""
    for name in (*OTHER_REPOSITORY, "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    return home


def scripts(folder: Path, text: str, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def log(folder: Path) -> list[str]:
    form = "--format=%an <%ae> %s"
    return subprocess.run(
        ["git", "log", form], cwd=folder, capture_output=True, text=True, check=False
    ).stdout.splitlines()


def made(top: Path, files: tuple[str, ...] = ("params.yaml", "README.md", "notes.bak")) -> tuple[Path, list[str]]:
    folder = top / "project"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("a: 1\n")
    said: list[str] = []
    make_repository(folder, None, "first", said.append)
    return folder, said


@pytest.mark.parametrize(
    ("settings", "author"),
    [
        ("", OURS),
        (ME + "[commit]\ngpgsign = true\n", MINE),
        (ME + "[commit]\ngpgsign = true\n[gpg]\nformat = ssh\n[user]\nsigningkey = /no/such/key\n", MINE),
        (ME + "[commit]\ngpgsign = true\n[gpg]\nprogram = /no/such/program\n", MINE),
        (ME + "[core]\nhooksPath = $TOP/hooks\n", MINE),
        (ME + "[init]\ntemplateDir = $TOP/template\n", MINE),
        (ME + "[init]\ntemplateDir = /no/such/folder\n", MINE),
        ("[user]\nuseConfigOnly = true\n", OURS),
        ("[user]\nuseConfigOnly = true\nemail = me@example.org\n", "cgankd <me@example.org>"),
        ("[user]\nuseConfigOnly = true\nname = Me\n", "Me <cgankd@localhost>"),
        ("[user]\nname =\nemail =\n", OURS),
        (ME + "[core]\nautocrlf = true\nsafecrlf = true\n", MINE),
        (ME + "[core]\nautocrlf = input\nsafecrlf = true\neol = crlf\n", MINE),
        (ME + "[core]\nexcludesFile = $TOP/ignored\n", MINE),
        (ME + "[commit]\ntemplate = /no/such/file\nverbose = true\n", MINE),
        (ME + "[init]\ndefaultBranch = trunk\ndefaultObjectFormat = sha256\n", MINE),
    ],
)
def test_the_first_commit_is_made_whatever_git_is_set_to(
    user: Path, tmp_path: Path, settings: str, author: str
) -> None:
    (user / ".gitconfig").write_text(settings.replace("$TOP", str(tmp_path)))
    scripts(tmp_path / "hooks", REFUSES, "pre-commit", "commit-msg", "prepare-commit-msg", "post-commit")
    scripts(tmp_path / "template" / "hooks", REFUSES, "pre-commit", "commit-msg")
    (tmp_path / "ignored").write_text("*.yaml\n*.bak\n.dvcignore\n")
    folder, said = made(tmp_path)
    assert log(folder) == [f"{author} first"] and said == [f"{folder} is a git and DVC repository with a first commit"]
    there = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    assert {"params.yaml", "README.md", "notes.bak", ".dvc/config"} <= set(there)
    assert not (folder / ".git" / "config").read_text().count("gpgsign"), "later commits are as the user has set them"


def test_inside_of_a_hook_of_another_repository(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".gitconfig").write_text(ME)
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", str(other)], check=True)
    for name, value in {"DIR": ".git", "WORK_TREE": ".", "INDEX_FILE": ".git/index", "PREFIX": "sub/"}.items():
        monkeypatch.setenv(f"GIT_{name}", value if name == "PREFIX" else str(other / value))
    folder, _ = made(tmp_path)
    for name in OTHER_REPOSITORY:
        monkeypatch.delenv(name, raising=False)
    assert log(folder) == [f"{MINE} first"] and log(other) == [] and not (other / ".git" / "index").exists()


def test_a_folder_that_seems_to_be_somebody_elses(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".gitconfig").write_text(ME)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        folder, _ = made(tmp_path)
    assert log(folder) == [f"{MINE} first"]


def wrapped_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str) -> None:
    """A git that fails where a word of the command line passes a test of the shell."""
    real = shutil.which("git")
    text = f'#!/bin/sh\nfor word in "$@"; do {test} && {{ echo "fatal: not here" >&2; exit 129; }}; done\nexec {real} "$@"\n'
    path = scripts(tmp_path / "bin", text, "git")
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")


def test_a_git_from_before_named_first_branches(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".gitconfig").write_text(ME)
    wrapped_git(tmp_path, monkeypatch, 'case "$word" in -b|--initial-branch*|--object-format*) true;; *) false;; esac')
    folder, _ = made(tmp_path)
    assert log(folder) == [f"{MINE} first"]


def test_a_commit_that_cannot_be_made_is_left_to_the_user(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user / ".gitconfig").write_text(ME)
    wrapped_git(tmp_path, monkeypatch, '[ "$word" = commit ]')
    folder, (said,) = made(tmp_path)
    assert said.startswith(f"{folder} is a git and DVC repository, its first commit is left to you: `git commit")
    assert "fatal: not here" in said and (folder / ".dvc" / "config").exists()
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], cwd=folder, capture_output=True, text=True)
    assert "params.yaml" in staged.stdout


def test_a_git_that_does_not_work_is_seen_first(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_git()
    (user / ".gitconfig").write_text("[user\n")
    with pytest.raises(ConfigError, match=r"git cannot read its own settings: .*\.gitconfig; correct that file"):
        check_git()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="git is not installed"):
        check_git()


def test_why_dvc_fails_is_said(user: Path, tmp_path: Path) -> None:
    (user / ".gitconfig").write_text(ME + f"[core]\nexcludesFile = {tmp_path}/ignored\n")
    (tmp_path / "ignored").write_text(".dvc\n")
    with pytest.raises(ConfigError, match=r"`dvc init` failed in .*ignored"):
        made(tmp_path)
