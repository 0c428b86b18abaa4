"""The Ray cluster as the doctor sees it: its nodes, their resources and versions, and what of this machine each sees."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from cgankd.config import ConfigError
from pipelines.engines.choice import engine_name
from pipelines.project.finding import Finding


def look_at_cluster(workdir: Path) -> list[Finding]:
    """Nothing unless CGANKD_ENGINE is ray; a node that would refuse jobs is a problem."""
    try:
        if engine_name() == "local":
            return []
        return _nodes(workdir)
    except ConfigError as error:
        return [Finding("cluster", "problem", str(error), "correct that, or unset CGANKD_ENGINE")]


def _nodes(workdir: Path) -> list[Finding]:
    from pipelines.engines.card import card_of
    from pipelines.engines.carrier import carrier
    from pipelines.engines.remote import Mark
    from pipelines.engines.survey import Look, survey

    words, (by, may_see) = uuid.uuid4().hex, carrier()
    mark = Mark(workdir / "artifacts" / f".seen-{words[:8]}", words)
    mark.path.parent.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    try:
        mark.path.write_text(words, encoding="utf-8")
        looks: list[Look] = survey(mark, by, said.append)
    finally:
        mark.path.unlink(missing_ok=True)
    card = card_of("cpu")
    found = [Finding("cluster", "ok", line) for line in said]
    for look in looks:
        how = (
            "sees this folder" if look.sees and may_see else f"gets files by {os.environ.get('CGANKD_SHARED') or 'ray'}"
        )
        text = f"{look.node}: {look.resources}; torch {look.card.torch if look.card else '?'}; {how}"
        try:
            if look.card is None:
                raise ConfigError(look.error)
            look.card.check(card, look.node)
        except ConfigError as error:
            found.append(
                Finding("cluster", "problem", f"{text}; {error}", "make its machine like this one, or remove it")
            )
            continue
        if look.error:
            found.append(
                Finding("cluster", "problem", f"{text}; {look.error}", "correct CGANKD_SHARED on all machines")
            )
        else:
            found.append(Finding("cluster", "ok", text))
    return found
