"""A look at every node of the cluster, by a small task on each."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.engines import cluster
from pipelines.engines.card import Card, card_of
from pipelines.engines.carrier import Carrier, arrive
from pipelines.engines.freight import Item
from pipelines.engines.remote import Mark, node_name

WAIT_S = 120.0


@dataclass(frozen=True)
class Look:
    """What a node is and sees; `card` is None where it did not answer, and `error` says why or what fails on it."""

    node: str
    resources: str
    card: Card | None = None
    sees: bool = False
    error: str = ""
    python: str = "?"


def survey(mark: Mark, by: Carrier, say: Callable[[str], None]) -> list[Look]:
    """All nodes that live; each looks for the mark, and fetches it by the carrier too. Raises ConfigError."""
    ray = cluster.connected(say)
    with cluster.in_words(ray):
        digest = hashlib.sha256(mark.words.encode()).hexdigest()
        by.put({digest: mark.path})
        item = Item(mark.path, digest, len(mark.words))
        asked = []
        for node in ray.nodes():
            if node["Alive"]:
                place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = ray.remote(look_here).options(num_cpus=0, scheduling_strategy=place, max_retries=0)
                asked.append((node, task.remote(mark, item, by)))
        return [_answer(ray, node, ref) for node, ref in asked]


def look_here(mark: Mark, item: Item, by: Carrier) -> tuple[str, Card, bool, str, str]:
    """On a node: its name, its card, whether it sees the mark, what keeps files from reaching it, and its Python."""
    node, error = node_name(), ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            arrive(item, Path(folder) / "mark", by, node)
    except Exception as failed:  # whatever a store raises is what the user has to read
        error = " ".join(str(failed).split())[:300]
    return node, card_of("cpu"), mark.seen(), error, platform.python_version()


def _answer(ray: Any, node: Mapping[str, Any], ref: Any) -> Look:
    has = node["Resources"]
    parts = [f"{has.get('CPU', 0):g} cores", f"{has['GPU']:g} GPUs" if "GPU" in has else ""]
    parts.append(f"{has.get('memory', 0) / 1e9:.3g} GB")
    resources = ", ".join(filter(None, parts))
    try:
        name, card, sees, error, python = ray.get(ref, timeout=WAIT_S)
    except ray.exceptions.RayError as failed:
        why = " ".join(str(failed).split())[:200] or type(failed).__name__
        return Look(f"{node['NodeManagerHostname']} (node {node['NodeID'][:8]})", resources, error=why)
    return Look(name, resources, card, sees, error, python)
