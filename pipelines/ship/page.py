"""The finished student as a page for browsers, beside the ONNX file that `export` has written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cgankd.config import ConfigError
from pipelines.device.web import Page, write_web
from pipelines.files.artifacts import file_digest, read_record
from pipelines.files.layout import understood
from pipelines.files.params import load_config
from pipelines.ship.release import model_name
from pipelines.ship.saved import load_finished

FOLDER = "web"


def write_page(
    workdir: Path, out: Path, *, level: float, runtime: Path | None = None, enlarge: bool = False
) -> list[Path]:
    """Write OUT/web/ for OUT/student.onnx, which `export` has written for the student of this work folder; returns its files.

    `runtime` is onnxruntime-web as the user names it, and `enlarge` as in `predict`. Raises ConfigError where student.onnx is
    missing or of another student, or onnxruntime-web is not at hand.
    """
    onnx, record = out / "student.onnx", out / "export.json"
    if not onnx.is_file() or not record.is_file():
        raise ConfigError(
            f"{onnx} and its export.json are missing, which the page needs; run `cgankd export --to onnx,web`"
        )
    finished = load_finished(workdir, level)
    digests = read_record(record, ("files", "weights"))
    weights = file_digest(workdir / "artifacts" / "student.safetensors")
    with understood(str(record), "cgankd export"):
        own = digests["weights"] == weights and digests["files"].get(onnx.name) == file_digest(onnx)
    if not own:
        raise ConfigError(f"{onnx} is of another student than artifacts/ holds; run `cgankd export --to onnx,web`")
    headline, config = finished.result["headline"], finished.student.config
    info = replace(finished.student.info, enlarge=enlarge or finished.student.info.enlarge)
    page = Page(
        title=model_name(load_config(workdir / "params.yaml").tracking.preset, None),
        info=info,
        margin=finished.margin,
        no_margin=f"none: there are too few validation images for a level of {100 * level:g} %",
        kicker=f"Student of {info.source}",
        facts=((headline["name"].capitalize(), f"{config['test']:.4g} {headline['unit']}".strip()),),
    )
    return write_web(onnx, out / FOLDER, page, workdir=workdir, runtime=runtime)
