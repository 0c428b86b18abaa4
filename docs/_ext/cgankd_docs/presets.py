"""The presets: what stands at the top of each file, and the settings by which they differ most."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cgankd_docs.markdown import table
from cgankd_docs.settings import FILE
from pipelines.files.params import parse, preset_names, preset_text


def about(text: str) -> list[str]:
    """The sentences at the top of a preset, one comment line each."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def page(path: Path, words: list[str]) -> str:
    """All presets in a table, then each with its own words."""
    rows, parts = [], []
    for name in preset_names():
        text = preset_text(name)
        found = parse(text, name)
        rows.append((f"[{name}](#{name})", *facts(found)))
        said = FILE.sub(r"[](/\g<1>)", as_text(" ".join(about(text))))
        parts.append(f"## {name}\n\n{said}\n")
    columns = ("preset", "labels", "pixels", "labelled images", "teacher", "student", "GAN", "fakes")
    return table(columns, rows) + "\n" + "\n".join(parts)


def as_text(comment: str) -> str:
    """A comment as Markdown: options are code."""
    return re.sub(r"(--set [\w.]+=[\w.-]*[\w])", r"`\1`", comment)


def facts(found: dict[str, Any]) -> tuple[str, ...]:
    """What tells presets apart, in words."""
    data = found["data"]
    per_label, in_all = data["train_per_label"], data["num_train"]
    images = [f"{per_label} a label"] if per_label else []
    images += [f"{in_all:,} in all"] if in_all else []
    gan = found["cgan"].get("arch", "compact")
    return (
        data["task"],
        f"{data['image_size']} {'grey' if data['channels'] == 1 else 'colour'}",
        ", ".join(images) or "all",
        found["teacher"]["net"],
        found["student"]["net"],
        gan,
        f"{found['bank']['num_fakes']:,}",
    )
