"""dvc.yaml of a project of one's own, made from that of this repository."""

from __future__ import annotations

from typing import Any

from pipelines.files.params import rewritten
from pipelines.files.pinned import PIN, is_code, template


def project_stages(watched: list[str]) -> str:
    """dvc.yaml of a project: code dependencies become digests in code.json; `prepare` also watches these paths."""

    def change(document: Any) -> None:
        for name, stage in document["stages"].items():
            for index in reversed(range(len(stage["deps"]))):
                if is_code(stage["deps"][index]):
                    del stage["deps"][index]
            stage["params"].append({PIN: [f"stages.{name}"]})
            if name == "prepare":
                stage["deps"].extend(watched)

    return rewritten(template("stages.yaml"), change)
