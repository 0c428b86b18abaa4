"""HTML pages in one file: templates, style and pictures all inside, nothing fetched. The only module that knows Jinja."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image
from torch import Tensor

THUMB = 64
"""Largest side of a thumbnail in pixels; larger images are reduced so that the file stays small."""


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """A template of pipelines/report/templates filled in; text is escaped, charts (markupsafe.Markup) are not."""
    environment = Environment(
        loader=PackageLoader("pipelines.report", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)


def png_uri(image_CHW: Tensor) -> str:
    """A uint8 image as the address of an embedded PNG."""
    pixels = image_CHW.detach().cpu().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((THUMB, THUMB))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def file_uri(path: Path) -> str:
    """A PNG file as the address of an embedded PNG."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
