"""The shards of a bank in artifacts/shards: what each was made with, the digests of its files, and the blocks of all as one.

A shard is a folder I-of-K with files of scored blocks and, written last, a manifest. The join, `cgankd bank`, takes the blocks
of a complete set and draws what they lack; it names a shard that is missing, there twice, damaged, or made with something else.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cgankd.bank.scores import Kept, Scores
from cgankd.bank.shards import Part
from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from cgankd.fit.device import Plan, is_bf16
from pipelines.files.artifacts import Say, fingerprint, source_digest
from pipelines.files.digests import file_digest
from pipelines.files.kept_runs import read_sealed, write_sealed
from pipelines.rounds.kept_blocks import KeptBlocks
from pipelines.runtime.machine import arithmetic

MANIFEST = "manifest.json"
BLOCKS = "*.safetensors"
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
    facts = {f"artifacts/{name}": digests[name] for name in NETS}
    facts |= {f"bank.{name}": str(value) for name, value in settings.items()}
    return facts | {
        "seed": str(seed),
        "the code of cgankd": source_digest(),
        "torch": torch.__version__,
        "CGANKD_DEVICE": plan.device,
        "CGANKD_COMPILE": plan.compile,
        "CGANKD_THREADS": str(torch.get_num_threads()),
        "the kind of processor": arithmetic(plan.device),
        "precision auto": "bf16" if is_bf16("auto", plan.device) else "fp32",
    }


def command(part: Part, given: Iterable[str] = ()) -> str:
    """The command that makes a shard with the settings of --set that were given."""
    sets = "".join(f" --set {shlex.quote(setting)}" for setting in given)
    return f"cgankd bank --shards {part.shards} --shard {part.shard}{sets}"


def folder_of(top: Path, part: Part) -> Path:
    """Where a shard lies."""
    return top / f"{part.shard}-of-{part.shards}"


def open_shard(top: Path, part: Part, facts: Mapping[str, str], say: Say) -> KeptBlocks | None:
    """Where a shard keeps its blocks, with those of a run that was cut short; None where it is complete already.

    Of a complete one, files of blocks that are not its own are deleted, which the join would refuse. Raises ConfigError where
    something stands in the way that is no file, or no folder.
    """
    folder, mark = folder_of(top, part), fingerprint(facts)
    for path in (top, folder):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{shown(path)} is no folder; delete it, then give the same command")
    check_plain(folder)
    found = read_sealed(folder / MANIFEST, KEYS)
    if (
        found is not None
        and found["facts"] == dict(facts)
        and (found["shard"], found["shards"]) == (part.shard, part.shards)
    ):
        for path in sorted(folder.glob(BLOCKS)):
            if path.name not in found["names"]:
                path.unlink()
                say(f"{shown(folder)}: {path.name} is not of this shard and was deleted")
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


def check_beside(top: Path, shards: int) -> None:
    """Raise ConfigError where a folder lies beside so many shards with which no join takes them; before one is drawn."""
    foreign = list[Path]()
    for folder in _folders(top):
        found = read_sealed(folder / MANIFEST, KEYS)
        part = _named(folder) if found is None else Part(int(found["shard"]), int(found["shards"]))
        if part is None:
            raise ConfigError(
                f"{shown(folder)} is no shard of a bank, which is named I-of-K; move it away, then give the same command"
            )
        own = folder_of(top, part)
        if part.shards != shards:
            foreign.append(folder)
        elif own != folder:
            cure = "delete one of them" if own.exists() else "rename the one to the other"
            raise ConfigError(
                f"{shown(folder)} holds shard {part}, whose place is {shown(own)}; {cure}, then give the same command"
            )
    if foreign:
        names = ", ".join(str(shown(folder)) for folder in foreign[:SHOWN])
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise ConfigError(
            f"{shown(top)} holds shards of another number than {shards} ({names}{more}); delete them, then give the same command"
        )


def with_shards(top: Path, facts: Mapping[str, str], kept: KeptBlocks, given: Sequence[str] = ()) -> Kept:
    """The blocks of all shards before `kept`; `kept` alone where there are no shards. `given` are the settings of --set.

    Raises ConfigError, with the command that mends it, where a shard is missing, there twice, damaged or of other make.
    """
    folders = _folders(top)
    if not folders:
        return kept
    else_draw = f"or delete {shown(top)} to draw all fakes here"
    place: dict[Part, Path] = {}
    for folder in folders:
        part = _checked(folder, facts, given, else_draw)
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
            f"shard {lacking[0]} of the bank is missing{_more(lacking)}; run `{command(lacking[0], given)}`, {else_draw}"
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


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []


def _named(folder: Path) -> Part | None:
    """The shard that a folder is named after."""
    name, _, total = folder.name.partition("-of-")
    return Part(int(name), int(total)) if name.isdigit() and total.isdigit() and int(name) < int(total) else None


def check_plain(folder: Path) -> None:
    """Raise ConfigError where something in the folder of a shard has the name of a file and is a folder."""
    for path in (folder / MANIFEST, *sorted(folder.glob(BLOCKS))):
        if path.is_dir():
            raise ConfigError(f"{shown(folder)}/{path.name} is a folder; delete it, then give the same command")


def _checked(folder: Path, facts: Mapping[str, str], given: Sequence[str], else_draw: str) -> Part:
    """Which shard a folder holds. Raises ConfigError unless it is whole and made with these facts."""
    check_plain(folder)
    named = _named(folder)
    again = f"run `{command(named, given)}` again" if named else f"delete {shown(folder)}"
    if not (folder / MANIFEST).exists():
        if named is None:
            raise ConfigError(
                f"{shown(folder)} is no shard of a bank, which is named I-of-K; move it away, {else_draw}"
            )
        raise ConfigError(f"shard {named} of the bank is not finished; run `{command(named, given)}`, {else_draw}")
    found = read_sealed(folder / MANIFEST, KEYS)
    if found is None or set(found["names"]) != {path.name for path in folder.glob(BLOCKS)}:
        what = _damaged(folder)
        raise ConfigError(f"{shown(folder)} is damaged ({what}); {again}, {else_draw}")
    part = Part(int(found["shard"]), int(found["shards"]))
    made, wanted = found["facts"], dict(facts)
    if other := sorted(key for key in made.keys() | wanted.keys() if made.get(key) != wanted.get(key)):
        words = "; ".join(_difference(key, made.get(key), wanted.get(key)) for key in other[:SHOWN])
        same = "join with the settings it was made with, " if all(map(_is_setting, other)) else ""
        again = f"run `{command(part, given)}` again"
        if folder != folder_of(folder.parent, part):  # which another folder would be made by
            again = f"delete it and {again}"
        raise ConfigError(f"{shown(folder)} was made with other things ({words}); {same}{again}, {else_draw}")
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
        more = sorted({path.name for path in folder.glob(BLOCKS)} - set(names))
        return f"{more[0]} is not of this shard" if more else f"{MANIFEST} is not as it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"


def _is_setting(key: str) -> bool:
    return key == "seed" or key.startswith("bank.")


def _difference(key: str, made: str | None, wanted: str | None) -> str:
    if key.startswith("artifacts/") or key.startswith("the code"):
        return f"another {key}" if key.startswith("artifacts/") else f"other {key.removeprefix('the ')}"
    return f"{key} {made}, here {wanted}"
