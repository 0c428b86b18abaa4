"""What a stage gets: its settings, its inputs, and the places its progress, results and pictures go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from filelock import FileLock
from rich.console import Console, RenderableType
from torch import Tensor, nn

from cgankd.config import Config, ConfigError
from cgankd.fit.course import Setback
from cgankd.measure.health import Check, check_setback
from cgankd.types import LogFn
from pipelines.files.artifacts import (
    Kept,
    ResumeFile,
    config_path,
    delete_progress,
    file_digest,
    fingerprint,
    load_weights,
    replacing,
    save_weights,
    source_digest,
    write_json,
)
from pipelines.files.layout import missing
from pipelines.files.made import check_made, same_inputs
from pipelines.files.params import settings_of
from pipelines.locks.holding import release
from pipelines.runtime.curves import Curves, file_name, series_csv
from pipelines.runtime.held import Watch
from pipelines.runtime.machine import available_cores, make_plan
from pipelines.runtime.outputs import Drawing as Drawing
from pipelines.runtime.outputs import Outputs, draw, place_made
from pipelines.runtime.progress import Meter, duration_text
from pipelines.tracking.journal import Tracker
from pipelines.tracking.names import result_name

AnyKept = TypeVar("AnyKept", bound=Kept)
FLUSH_EVERY_S = 5.0
"""Seconds between batches of curve points sent to the trackers."""


class Context:
    """One run of one stage, made by `open_context` and used as a context manager.

    Leaving it without an error writes metrics/<stage>.json and the curves, puts them and the artifacts in their places, forgets
    resume files and ends the tracked run as FINISHED; leaving it with one ends it as FAILED, keeps the resume files, and what
    the stage left before is as it was.
    """

    def __init__(self, stage: str, cfg: Config, workdir: Path, tracker: Tracker, console: Console) -> None:
        self.stage, self.cfg, self.seed, self.workdir = stage, cfg, cfg.seed, workdir
        self.tracker, self.console = tracker, console
        self.digests: dict[str, str] = {}
        self.overrides: tuple[str, ...] = ()
        """The settings of --set, as they were given."""
        self._read: dict[Path, str] = {}
        self.changed: Callable[[], str | None] = lambda: None
        """Says what of params.yaml changed since the run began."""
        self._meter, self._watch, self._out = Meter(console), Watch(), Outputs(workdir, stage)
        self._tell: list[str] = []
        self._curves: dict[str, Curves] = {}
        self._resume: list[Kept] = []
        self._metrics: dict[str, Any] = {}
        self._plots, self._wrote_own_metrics = set[str](), False
        self._sent_s = self._start_s = time.monotonic()
        self._lock: FileLock | None = None
        self.plan = make_plan(self.say)

    # Files in and out

    def path(self, name: str) -> Path:
        """Where an artifact lies, or what is kept beside: artifacts/<name>; its folder exists."""
        path = self.workdir / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def new(self, name: str) -> Path:
        """Where an artifact that this stage makes is written; it becomes artifacts/<name> when the stage is done."""
        return self._out.path(f"artifacts/{name}")

    def inputs(self, *names: str) -> tuple[Path, ...]:
        """Paths of the artifacts this stage reads; they are part of resume fingerprints and tags of the run.

        Raises ConfigError when one is missing, naming the stage that makes it.
        """
        paths = tuple(self.workdir / "artifacts" / name for name in names)
        found: dict[str, str] = {}
        for name, path in zip(names, paths, strict=True):
            if not path.exists():
                raise missing(path)
            check_made(path)
            found[name] = self._read[path] = file_digest(path)
            config = config_path(path)
            if path.suffix == ".safetensors" and config.exists():
                check_made(config)
                found[str(Path(name).parent / config.name)] = self._read[config] = file_digest(config)
            if path.suffix == ".h5":
                use = "test" if self.stage == "evaluate" else "training"
                self.tracker.dataset(f"{self.cfg.data.source}/{name}", found[name], use)
        self.digests |= found
        self.tracker.tags({f"input.{name}": digest[:12] for name, digest in found.items()})
        return paths

    def check_unchanged(self) -> None:
        """Raise ConfigError where a file that was read is another by now: what was made of it would pass for its child."""
        for path in same_inputs(self._read):
            shown = path.relative_to(self.workdir)
            raise ConfigError(f"{shown} was changed while `cgankd {self.stage}` ran; run `cgankd {self.stage}` again")

    def save_weights(self, name: str, module: nn.Module | Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
        """artifacts/<name>.safetensors and, beside it, the config that rebuilds the net, as `new` has them."""
        self.check_unchanged()
        path = self.new(f"{name}.safetensors")
        save_weights(path, module, config)
        return path

    def load_weights(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and config of artifacts/<name>, a file name with its ending."""
        return load_weights(self._out.latest(f"artifacts/{name}"))

    def copy_weights(self, source: Path, name: str) -> Path:
        """Copy weights and config from anywhere to artifacts/<name>, a file name with its ending; `sync_all` is for later."""
        target = self.new(name)
        for old, new in ((config_path(source), config_path(target)), (source, target)):
            with replacing(new, old.stat().st_size, synced=False) as temporary:
                shutil.copyfile(old, temporary)
        return target

    def write_artifact_json(self, name: str, values: object) -> Path:
        """artifacts/<name> as JSON, keys in the order given."""
        self.check_unchanged()
        path = self.new(name)
        write_json(path, values, sort_keys=False)
        return path

    # Talking

    def say(self, text: str) -> None:
        """A line for the user and the JSON lines."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.tracker.say(text)

    def show(self, renderable: RenderableType) -> None:
        """A table or other rich object for the user."""
        self._meter.stop()
        self.console.print(renderable)

    def progress(self, name: str) -> LogFn:
        """Where a loop reports: draws its progress; its values become plots/<stage>/<name>.csv and curves."""
        curves = self._curves.setdefault(name, Curves())

        def log(step: int, values: Mapping[str, float], total: int) -> None:
            curves.add(step, values)
            self._meter.update(name, step, values, total)
            if (held := self._watch.line(torch.get_num_threads(), available_cores())) is not None:
                self.say(held)
                self.tracker.tags({"compute.cores_held": held})
            if time.monotonic() - self._sent_s >= FLUSH_EVERY_S:
                self._send_curves()

        return log

    def curve_rows(self, name: str) -> list[list[object]]:
        """What the loop has reported so far, rows of step and values."""
        return self._curves.setdefault(name, Curves()).dump()

    def checkpoint(self, name: str) -> ResumeFile:
        """Resume storage of a loop; the curve of the same name travels with it.

        Call it after `inputs`: it is trusted only under equal settings of this stage, inputs and library source.
        """
        curves = self._curves.setdefault(name, Curves())
        wanted = settings_of(self.cfg, self.stage)
        wanted |= {"torch": torch.__version__, "device": self.plan.device, "compile": self.plan.compile}

        def resumed(step: int, rows: Any) -> None:
            curves.restore(rows)
            self.tracker.tags({f"resumed.{name}": str(step)})

        resume = ResumeFile(
            self.path(f"resume/{self.stage}/{file_name(name)}.pt"),
            fingerprint(wanted, self.digests | {"source": source_digest()}),
            self.say,
            curves.dump,
            resumed,
        )
        return self.until_done(resume)

    def until_done(self, kept: AnyKept) -> AnyKept:
        """Keep it until this stage is done; an error or a kill leaves it for the next run."""
        self._resume.append(kept)
        return kept

    # Results

    def metrics(self, values: Mapping[str, float]) -> None:
        """Add numbers to metrics/<stage>.json and, under health/ and result/, to the tracked run."""
        self._metrics |= values
        self.tracker.metrics({result_name(name): value for name, value in values.items()})

    def check(self, check: Check) -> None:
        """Log a health check and keep its value and verdict as metrics health.<name> and health.<name>.ok."""
        self.say(check.line(refusing=self.cfg.bank.refuse_worthless, here=self.stage == "bank"))
        self.metrics({f"health.{check.name}": check.value, f"health.{check.name}.ok": int(check.ok)})

    def setback(self, name: str, found: Setback | None) -> None:
        """Report that a training went back, as a check that failed; None says nothing."""
        if found is not None:
            self.check(check_setback(name, found.step, found.back_to, found.found, found.setting))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """metrics/<name>.json, keys in the order given (the arms are a sequence), also a file of the tracked run."""
        write_json(self._told(f"metrics/{name}.json"), values, sort_keys=False)
        self._wrote_own_metrics |= name == self.stage

    def picture(self, name: str, figure: Drawing, step: int = 0) -> Path:
        """plots/<stage>/<name>.png, the same bytes for the same figure; `step` is that of the loop it shows."""
        path = self.workdir / self._plot_name(f"{file_name(name)}.png")
        draw(path, figure)
        self.tracker.picture(path, step)
        return path

    def curve_table(self, name: str, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
        """plots/<stage>/<name>.csv from series -> (steps, values): a column step and one for each series."""
        with replacing(self._told(self._plot_name(f"{file_name(name)}.csv"))) as temporary:
            temporary.write_text(series_csv(curves), encoding="utf-8")

    # Beginning and end

    def __enter__(self) -> Self:
        place_made(self.workdir, self.stage)  # of a run that was stopped at that
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._start_s
        status = "FAILED"
        try:
            self._meter.stop()
            self._send_curves()
            self.tracker.metrics({"seconds": seconds})
            if error is None:
                self._finish()
                self.say(f"{self.stage} done in {duration_text(seconds)}")
                status = "FINISHED"
            else:
                self.tracker.say(f"{self.stage} ended by {type(error).__name__}: {error}")
        finally:
            self._out.discard()
            self.tracker.close(status)
            if self._lock is not None:
                release(self._lock)

    def _finish(self) -> None:
        self.check_unchanged()
        if (other := self.changed()) is not None:
            self.say(f"warning: {other}")
        for name, curves in self._curves.items():
            if curves.rows:
                with replacing(self._out.path(self._plot_name(f"{file_name(name)}.csv"))) as temporary:
                    temporary.write_text(curves.csv(), encoding="utf-8")
        if not self._wrote_own_metrics:
            write_json(self._out.path(f"metrics/{self.stage}.json"), self._metrics)
        self._out.place()
        for told in self._tell:
            self.tracker.file(self.workdir / told)
        # Pictures and curves of an earlier run that this one did not make would pass for its own.
        for path in (self.workdir / "plots" / self.stage).glob("*.*"):
            if path.suffix in (".png", ".csv") and path.name not in self._plots:
                path.unlink()
        for resume in self._resume:
            resume.delete()
        delete_progress(self.path(f"resume/{self.stage}"))

    def _plot_name(self, name: str) -> str:
        """A picture or curve of this run, by its name below the work folder."""
        self._plots.add(name)
        return f"plots/{self.stage}/{name}"

    def _told(self, name: str) -> Path:
        """Where a file below the work folder is written that the tracked run gets when it is in its place."""
        self._tell.append(name)
        return self._out.path(name)

    def _send_curves(self) -> None:
        self._sent_s = time.monotonic()
        for name, curves in self._curves.items():
            for value, points in curves.take().items():
                self.tracker.curve(f"{name}/{value}", points)
