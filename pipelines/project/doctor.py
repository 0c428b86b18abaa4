"""What stands in the way of a run on this machine, each finding with its cure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cgankd.config import Config, ConfigError, DataConfig, FitConfig, TeacherConfig
from cgankd.config.data import MADE_HERE
from cgankd.data.regular import read_json
from pipelines.files.params import read_params
from pipelines.project.finding import Finding
from pipelines.project.repository import look_at_lock
from pipelines.search.config import load_searched
from pipelines.tracking.masks import masked
from pipelines.tracking.moved import StoreMoved, check_place, check_readable
from pipelines.tracking.places import FILE, given_uri, silence

PACKAGES = ("torch", "torchvision", "numpy", "h5py", "safetensors", "scikit-learn", "mlflow", "dvc", "matplotlib")
LEAST_MEMORY_GB = 2.0
WITHOUT = "; `cgankd run` works without git and DVC"


def examine(workdir: Path, *, only_repository: bool = False) -> list[Finding]:
    """Look at everything, or at git, DVC and params.yaml alone.

    `dvc repro` reads no setting when nothing has to run again, so that a typo would stay unseen without this.
    """
    looks: list[Callable[[Path], list[Finding]]] = [
        look_at_git,
        look_at_dvc,
        look_at_lock,
        look_at_params,
        look_at_generator,
        look_at_code,
    ]
    if only_repository:
        return [finding for look in looks for finding in look(workdir)]
    from pipelines.project.doctor_room import look_at_cluster, look_at_disk, look_at_images

    looks = [look_at_packages, look_at_machine, look_at_disk, *looks, look_at_images, look_at_tracking, look_at_cluster]
    found = [finding for look in looks for finding in look(workdir)]
    if (workdir / "dvc.yaml").exists():
        return found
    # Nothing here is run by DVC, so what only DVC needs does not block.
    return [replace(f, level="warning") if f.name in ("git", "dvc") and f.level != "ok" else f for f in found]


def look_at_packages(workdir: Path) -> list[Finding]:
    """Versions of Python and of what a run imports."""
    findings = [Finding("python", "ok", platform.python_version())]
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, "problem", "is not installed", "run `make venv`"))
    if found:
        findings.append(Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in found.items())))
    if {"torch", "torchvision"} <= found.keys():
        torch_minor, vision_minor = (int(found[name].split(".")[1]) for name in ("torch", "torchvision"))
        if found["torch"].startswith("2.") and vision_minor != torch_minor + 15:
            text = f"torch {found['torch']} and torchvision {found['torchvision']} are not a pair"
            findings.append(
                Finding("torchvision", "problem", text, f"pip install 'torchvision==0.{torch_minor + 15}.*'")
            )
    return findings


def look_at_machine(workdir: Path) -> list[Finding]:
    """Processor, arithmetic and memory."""
    import torch

    from cgankd.fit.device import has_bf16_units
    from pipelines.runtime.machine import available_cores, free_memory_gb, make_plan, plan_line, set_threads

    findings = []
    try:
        set_threads()
        threads = f"{torch.get_num_threads()} torch threads on {available_cores()} cores"
        findings.append(Finding("processor", "ok", threads))
    except ConfigError as error:
        findings.append(Finding("processor", "problem", str(error), "unset CGANKD_THREADS"))
    units = [name for name, there in (("AMX", torch.cpu._is_amx_tile_supported()), ("bf16", has_bf16_units())) if there]
    text = f"precision auto on it is {'bf16' if has_bf16_units() else 'fp32'} ({', '.join(units) or 'no bf16 units'})"
    findings.append(Finding("arithmetic", "ok", text))
    try:
        findings.append(Finding("plan", "ok", plan_line(make_plan())))
    except ConfigError as error:
        findings.append(Finding("plan", "problem", str(error), "unset that variable"))
    if torch.cuda.is_available():
        does = "stages train, draw and score on it (programs of your own, audits and exports run on the processor)"
        if os.environ.get("CGANKD_DEVICE") == "cpu":
            does = "CGANKD_DEVICE=cpu leaves it alone"
        findings.append(Finding("cuda", "ok", f"{torch.cuda.get_device_name(0)} is there: {does}"))
    else:
        findings.append(Finding("cuda", "ok", "no CUDA device; everything runs on the processor"))
    from pipelines.project.doctor_room import look_at_cores

    findings.append(look_at_cores())
    free = free_memory_gb()
    if free is not None:
        low = free < LEAST_MEMORY_GB
        cure = "close other programs, or lower the batch_size settings" if low else ""
        findings.append(Finding("memory", "warning" if low else "ok", f"{free:.1f} GB free", cure))
    return findings


def look_at_git(workdir: Path) -> list[Finding]:
    """DVC needs a git repository."""
    if shutil.which("git") is None:
        return [Finding("git", "problem", "git is not installed, which `dvc repro` needs", "install git" + WITHOUT)]
    done = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"], cwd=workdir, capture_output=True, text=True, check=False
    )
    if "dubious ownership" in done.stderr:
        cure = f"git config --global --add safe.directory {workdir}"
        return [Finding("git", "problem", "git distrusts this folder because another user owns it", cure)]
    if done.returncode != 0:
        text = f"{workdir} lies in no git repository, which `dvc repro` needs"
        return [Finding("git", "problem", text, "run `git init`" + WITHOUT)]
    return [Finding("git", "ok", f"repository at {done.stdout.strip()}")]


def look_at_dvc(workdir: Path) -> list[Finding]:
    """DVC must be initialised here, with the stages at hand."""
    findings = []
    root = next((top for top in (workdir, *workdir.parents) if (top / ".dvc").is_dir()), None)
    if root is None:
        text = f"DVC is not set up in {workdir} or a folder above it, which `dvc repro` needs"
        findings.append(Finding("dvc", "problem", text, "run `dvc init` at the top of the git repository" + WITHOUT))
    elif not (root / ".dvc" / "config").exists():
        findings.append(Finding("dvc", "problem", f"{root / '.dvc'} has no config", "run `dvc init -f`"))
    else:
        findings.append(Finding("dvc", "ok", f"initialised at {root}"))
    if not (workdir / "dvc.yaml").exists():
        cure = "go to the folder that has it, or use `cgankd run`, which needs none"
        findings.append(Finding("dvc.yaml", "warning", f"not in {workdir}, so `dvc repro` has no stages", cure))
    return findings


def look_at_params(workdir: Path) -> list[Finding]:
    """params.yaml must hold every setting, each in range."""
    path = workdir / "params.yaml"
    try:
        read_params(path)
    except ConfigError as error:
        cure = "correct that line" if path.exists() else "run `cgankd use PRESET`"
        return [Finding("params.yaml", "problem", str(error), cure)]
    try:
        cfg = load_searched(path)
    except ConfigError as error:
        cure = "correct the setting, or start again with `cgankd use PRESET`"
        return [Finding("params.yaml", "problem", str(error), cure)]
    from pipelines.networks.named_files import starting

    room = look_at_room(workdir, cfg)
    good = Finding("params.yaml", "ok", f"valid, preset {cfg.tracking.preset}, {cfg.data.source}")
    sections = starting(cfg).items()
    weights = [found for name, section in sections for found in look_at_weights(workdir, name, section)]
    from pipelines.project.doctor_room import look_at_features

    weights += look_at_features(cfg.cgan)
    return [good, room, *look_at_data(workdir, cfg.data), *look_at_teacher(workdir, cfg.teacher), *weights]


def look_at_room(workdir: Path, cfg: Config) -> Finding:
    """What the stages will write must fit beside what is there."""
    from pipelines.files.layout import STAGES
    from pipelines.files.writing import free_bytes, size_text
    from pipelines.runtime.room import estimates

    found = dict(estimates(cfg, workdir, STAGES))
    needed, free = sum(found.values()), free_bytes(workdir) or 0
    listed = ", ".join(f"{stage} {size_text(size)}" for stage, size in found.items())
    text = f"the stages will write about {size_text(needed)} ({listed}); {size_text(free)} are free"
    if needed > free:
        return Finding("room", "warning", text, "make room: `dvc gc -w` drops cached data no longer in use")
    return Finding("room", "ok", text)


def look_at_code(workdir: Path) -> list[Finding]:
    """A project's stages are refused where the installed code is not the one its code.json names."""
    if not (workdir / "code.json").exists():
        return []
    from pipelines.files.pinned import changed_code  # imports torch

    try:
        changed = changed_code(workdir)
    except ConfigError as error:
        return [Finding("code", "problem", str(error), "run `cgankd pin`")]
    if changed:
        text = f"the installed code of {', '.join(changed)} is not the one that code.json names"
        return [Finding("code", "problem", text, "run `cgankd pin`, then `dvc repro`")]
    return [Finding("code", "ok", "the one that code.json names")]


def look_at_data(workdir: Path, cfg: DataConfig) -> list[Finding]:
    """The folder or file of the images must be there; DVC wants it even where `prepare` will fetch them."""
    if cfg.source in MADE_HERE:
        return []
    path = workdir / cfg.root
    if path.exists():
        return [Finding("data.root", "ok", f"{cfg.root} is there")]
    if cfg.download:
        cure = f"run `mkdir -p {shlex.quote(cfg.root)}`: DVC asks for it before `prepare` fetches the archive"
    else:
        cure = "put the images there, or set data.root in params.yaml (`cgankd use PRESET --root PATH` writes it)"
    return [Finding("data.root", "problem", f"{path} does not exist", cure)]


def look_at_teacher(workdir: Path, cfg: TeacherConfig) -> list[Finding]:
    """A teacher of the user's own must be there, and the one that the stage took: DVC does not watch that file."""
    if cfg.file is None:
        return []
    from pipelines.files.artifacts import config_path, read_record
    from pipelines.networks.own_teacher import find_file

    try:
        _, digest = find_file(cfg, workdir)
    except ConfigError as error:
        return [Finding("teacher.file", "problem", str(error), "correct the setting")]
    record = config_path(workdir / "artifacts" / "teacher.safetensors")
    try:
        taken = read_record(record).get("file_digest") if record.exists() else None
    except ConfigError as error:
        return [Finding("teacher.file", "problem", str(error), "do so")]
    if taken not in (None, digest):
        text = f"{cfg.file} is another file than the one in artifacts/teacher.safetensors"
        cure = f"set teacher.file_digest to {digest[:16]}, then run `dvc repro` (or `cgankd run`)"
        return [Finding("teacher.file", "warning", text, cure)]
    return [Finding("teacher.file", "ok", f"{cfg.file}, SHA-256 {digest[:16]}")]


def look_at_weights(workdir: Path, section: str, cfg: FitConfig) -> list[Finding]:
    """Weights that a training starts from must be there, and be the ones that they are said to be."""
    if cfg.starts_from is None:
        return []
    from pipelines.networks.weights import find_weights, trained_from

    try:
        found = find_weights(section, cfg, workdir)
    except ConfigError as error:
        return [Finding(f"{section}.weights", "problem", str(error), "do so, or correct the setting")]
    stage = section.partition(".")[0]
    known = trained_from(workdir, stage, cfg.starts_from)
    if found is not None and known and found.digest not in known:
        text = f"{cfg.starts_from} has changed since artifacts/{stage}.safetensors was trained from it"
        return [Finding(f"{section}.weights", "warning", text, again(stage))]
    digest = "downloaded by the stage" if found is None else f"SHA-256 {found.digest[:16]}"
    return [Finding(f"{section}.weights", "ok", f"{cfg.starts_from}, {digest}")]


def look_at_generator(workdir: Path) -> list[Finding]:
    """A generator of the user's own (cgan.file) must be the one that was taken in; DVC does not watch it."""
    try:
        own = read_json(workdir / "artifacts/cgan.config.json").get("own")
    except (OSError, ValueError, AttributeError):
        own = None
    if not isinstance(own, dict) or not {"file", "sha256"} <= own.keys() or not (workdir / str(own["file"])).exists():
        return []
    from pipelines.files.artifacts import file_digest

    if file_digest(workdir / own["file"]) == own["sha256"]:
        return [Finding("cgan.file", "ok", f"{own['file']} is the generator in artifacts/cgan.safetensors")]
    text = f"{own['file']} has changed since artifacts/cgan.safetensors was made of it"
    return [Finding("cgan.file", "warning", text, again("cgan"))]


def again(stage: str) -> str:
    """The cure that runs one stage anew, though DVC sees no reason to; without -s it would run all before it too."""
    return f"run `dvc repro -s -f {stage}`, then `dvc repro` (`cgankd run --from {stage}` without DVC)"


def look_at_tracking(workdir: Path) -> list[Finding]:
    """Where MLflow runs go, and whether a server answers there."""
    uri = given_uri()
    if reason := silence(uri):
        cure = "start the server or unset MLFLOW_TRACKING_URI; `cgankd sync` adds runs it missed"
        return [Finding("mlflow", "warning", f"{masked(uri)} does not answer ({reason})", cure)]
    try:
        check_readable(workdir)
        check_place(workdir)
    except ConfigError as error:
        text, _, cure = str(error).partition("; ")
        return [
            Finding("mlflow", "warning", text, f"{cure}; then `cgankd sync`" if isinstance(error, StoreMoved) else cure)
        ]
    return [Finding("mlflow", "ok", f"runs go to {masked(uri) or workdir / FILE}")]
