"""The shards of a bank in artifacts/shards: what each was made with, the digests of its files, and the blocks of all as one.

A shard is a folder I-of-K with files of scored blocks and, written last, a manifest. The join, `cgankd bank`, takes the blocks
of a complete set and draws what they lack; it names a shard that is missing, there twice, damaged, or made with something else.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cgankd.bank.scores import Kept, Scores
from cgankd.bank.shards import Part
from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from cgankd.fit.device import Plan
from pipelines.files.artifacts import Say, fingerprint, source_digest
from pipelines.files.digests import file_digest
from pipelines.files.kept_runs import read_sealed, write_sealed
from pipelines.rounds.kept_blocks import KeptBlocks

MANIFEST = "manifest.json"
KEYS = ("shard", "shards", "facts", "names", "fakes")
NETS = (
    "dataset.h5",
    *(f"{net}.{end}" for net in ("teacher", "cgan", "ratio") for end in ("safetensors", "config.json")),
)
"""The artifacts that a block depends on."""
SHOWN = 4
"""Differences that one sentence names."""


def facts_of(settings: Mapping[str, Any], seed: int, plan: Plan, digests: Mapping[str, str]) -> dict[str, str]:
    """All that the blocks of a shard depend on, each under the words by which a difference is told."""
    cuda = plan.device == "cuda"
    facts = {f"artifacts/{name}": digests[name] for name in NETS}
    facts |= {f"bank.{name}": str(value) for name, value in settings.items()}
    return facts | {
        "seed": str(seed),
        "the code of cgankd": source_digest(),
        "torch": torch.__version__,
        "CGANKD_DEVICE": plan.device,
        "CGANKD_COMPILE": plan.compile,
        "CGANKD_THREADS": str(torch.get_num_threads()),
        "the kind of processor": torch.cuda.get_device_name(0) if cuda else torch.backends.cpu.get_cpu_capability(),
    }


def command(part: Part) -> str:
    """The command that makes a shard."""
    return f"cgankd bank --shards {part.shards} --shard {part.shard}"


def folder_of(top: Path, part: Part) -> Path:
    """Where a shard lies."""
    return top / f"{part.shard}-of-{part.shards}"


def open_shard(top: Path, part: Part, facts: Mapping[str, str], say: Say) -> KeptBlocks | None:
    """Where a shard keeps its blocks, with those of a run that was cut short; None where it is complete already."""
    folder, mark = folder_of(top, part), fingerprint(facts)
    found = read_sealed(folder / MANIFEST, KEYS)
    if (
        found is not None
        and found["facts"] == dict(facts)
        and (found["shard"], found["shards"]) == (part.shard, part.shards)
    ):
        return None
    (folder / MANIFEST).unlink(missing_ok=True)
    return KeptBlocks(folder, mark, say, whole=True)


def close_shard(blocks: KeptBlocks, part: Part, facts: Mapping[str, str], counts: Mapping[str, int]) -> None:
    """Write what waits, then the manifest."""
    blocks.flush()
    names = {path.name: file_digest(path) for path in blocks.files()}
    values = {"shard": part.shard, "shards": part.shards, "facts": dict(facts), "names": names, **counts}
    write_sealed(blocks.folder / MANIFEST, values, blocks.files())


@dataclass
class Shards:
    """The blocks of a complete set of shards, and `kept`, those that the join drew itself."""

    top: Path
    stores: list[KeptBlocks]
    kept: KeptBlocks
    used: set[str] = field(default_factory=set)
    taken: int = 0
    drawn: int = 0

    def find(self, key: str) -> Scores | None:
        """A block of any shard, or of a join that was cut short."""
        for store in self.stores:
            if (found := store.find(key)) is not None:
                self.taken += 0 if key in self.used else len(found)
                self.used.add(key)
                return found
        return self.kept.find(key)

    def keep(self, key: str, scores: Scores) -> None:
        """Keep a block that no shard had."""
        self.drawn += len(scores)
        self.kept.keep(key, scores)

    def delete(self) -> None:
        """Forget all blocks; called when the bank is there."""
        self.kept.delete()
        shutil.rmtree(self.top, ignore_errors=True)

    def line(self) -> str:
        """What of the shards was used, in words."""
        held = sum(map(len, self.stores))
        return (
            f"bank: {len(self.stores)} shards hold {held} scored fakes, of which {self.taken} are used;"
            f" {self.drawn} that they did not foresee were drawn here"
        )


def with_shards(top: Path, facts: Mapping[str, str], kept: KeptBlocks) -> Kept:
    """The blocks of all shards before `kept`; `kept` alone where there are no shards.

    Raises ConfigError, with the command that mends it, where a shard is missing, there twice, damaged or of other make.
    """
    folders = sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
    if not folders:
        return kept
    else_draw = f"or delete {shown(top)} to draw all fakes here"
    place: dict[Part, Path] = {}
    for folder in folders:
        part = _checked(folder, facts, else_draw)
        if part in place:
            raise ConfigError(
                f"shard {part} is there twice, in {shown(place[part])} and {shown(folder)}; delete one of them, {else_draw}"
            )
        place[part] = folder
    if len(sizes := sorted({part.shards for part in place})) > 1:
        raise ConfigError(
            f"{shown(top)} holds shards of a bank of {sizes[0]} and of one of {sizes[1]}; delete those that are not wanted"
            f" ({', '.join(str(shown(place[part])) for part in place if part.shards == sizes[0])}), {else_draw}"
        )
    lacking = [part for part in (Part(i, sizes[0]) for i in range(sizes[0])) if part not in place]
    if lacking:
        raise ConfigError(
            f"shard {lacking[0]} of the bank is missing{_more(lacking)}; run `{command(lacking[0])}`, {else_draw}"
        )
    mark = fingerprint(facts)
    parts = sorted(place, key=lambda part: part.shard)
    return Shards(top, [KeptBlocks(place[part], mark, lambda text: None) for part in parts], kept)


def shown(path: Path) -> Path:
    """The path below the work folder."""
    return path.relative_to(path.parents[1 if path.name == "shards" else 2])


def _more(lacking: list[Part]) -> str:
    rest = ", ".join(str(part.shard) for part in lacking[1:])
    return f" (and {rest} too)" if rest else ""


def _checked(folder: Path, facts: Mapping[str, str], else_draw: str) -> Part:
    """Which shard a folder holds. Raises ConfigError unless it is whole and made with these facts."""
    name, _, total = folder.name.partition("-of-")
    named = Part(int(name), int(total)) if name.isdigit() and total.isdigit() and int(name) < int(total) else None
    again = f"run `{command(named)}` again" if named else f"delete {shown(folder)}"
    if not (folder / MANIFEST).exists():
        if named is None:
            raise ConfigError(
                f"{shown(folder)} is no shard of a bank, which is named I-of-K; move it away, {else_draw}"
            )
        raise ConfigError(f"shard {named} of the bank is not finished; run `{command(named)}`, {else_draw}")
    found = read_sealed(folder / MANIFEST, KEYS)
    if found is None or set(found["names"]) != {path.name for path in folder.glob("*.safetensors")}:
        what = _damaged(folder)
        raise ConfigError(f"{shown(folder)} is damaged ({what}); {again}, {else_draw}")
    part = Part(int(found["shard"]), int(found["shards"]))
    made, wanted = found["facts"], dict(facts)
    if other := sorted(key for key in made.keys() | wanted.keys() if made.get(key) != wanted.get(key)):
        words = "; ".join(_difference(key, made.get(key), wanted.get(key)) for key in other[:SHOWN])
        raise ConfigError(
            f"{shown(folder)} was made with other things ({words}); run `{command(part)}` again, {else_draw}"
        )
    return part


def _damaged(folder: Path) -> str:
    """The file that is not as it was written."""
    try:
        names: dict[str, str] = read_json(folder / MANIFEST)["values"]["names"]
        for name, digest in names.items():
            if not (folder / name).exists():
                return f"{name} is missing"
            if file_digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
        more = sorted({path.name for path in folder.glob("*.safetensors")} - set(names))
        return f"{more[0]} is not of this shard" if more else f"{MANIFEST} is not as it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"


def _difference(key: str, made: str | None, wanted: str | None) -> str:
    if key.startswith("artifacts/") or key.startswith("the code"):
        return f"another {key}" if key.startswith("artifacts/") else f"other {key.removeprefix('the ')}"
    return f"{key} {made}, here {wanted}"
