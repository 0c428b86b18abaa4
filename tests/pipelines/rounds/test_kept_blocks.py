"""Scored blocks that survive a kill: the same bytes again, nothing drawn twice, nothing of another make used."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgankd.bank.scores import Scorer, Scores, block_key
from cgankd.fit.loop import Pace
from cgankd.rng import generator
from pipelines.rounds import kept_blocks
from pipelines.rounds.kept_blocks import KeptBlocks
from tests.bank.toys import class_task

NUM_BLOCKS, SIZE = 6, 5


class Counted:
    """A generator of random images that counts its draws."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, label_B: Tensor, gen: torch.Generator) -> Tensor:
        self.count += 1
        return torch.randint(256, (len(label_B), 1, 4, 4), dtype=torch.uint8, generator=gen)


def scorer(draw: Counted, kept: KeptBlocks | None, *, spread: bool = False) -> Scorer:
    """Scores that are functions of the images."""

    def outputs(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3].float() / 255

    def both(images: Tensor) -> Tensor:
        return torch.cat([outputs(images), images.flatten(1)[:, 3:4].float()], dim=1)

    def ratio(images: Tensor, label_B: Tensor) -> Tensor:
        return images.flatten(1).float().mean(1) + label_B

    return Scorer(draw, ratio, outputs, class_task(3), both if spread else None, kept)  # type: ignore[arg-type]


def blocks(score: Scorer, num: int = NUM_BLOCKS) -> list[Scores]:
    return [score(torch.arange(SIZE) % 3, generator(0, "bank", 1, block), block) for block in range(num)]


def same(ours: list[Scores], theirs: list[Scores]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shard == b.shard
        and a.parts().keys() == b.parts().keys()
        and all(torch.equal(a.parts()[name], b.parts()[name]) for name in a.parts())
        for a, b in zip(ours, theirs, strict=True)
    )


class AtOnce(Pace):
    """Every block is written by itself."""

    def due(self, every_s: float) -> bool:
        return True


@pytest.fixture()
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_blocks, "Pace", AtOnce)


def keeping(folder: Path, said: list[str] | None = None, mark: str = "mark") -> KeptBlocks:
    return KeptBlocks(folder / "blocks", mark, (said if said is not None else []).append)


@pytest.mark.parametrize("spread", [False, True])
def test_a_killed_run_draws_only_what_no_file_has(tmp_path: Path, at_once: None, spread: bool) -> None:
    wanted = blocks(scorer(Counted(), None, spread=spread))
    first, said = Counted(), list[str]()
    blocks(scorer(first, keeping(tmp_path), spread=spread), num=4)
    assert first.count == 4
    second, kept = Counted(), keeping(tmp_path, said)
    assert same(blocks(scorer(second, kept, spread=spread)), wanted)
    assert second.count == NUM_BLOCKS - 4
    assert said == [f"bank: {4 * SIZE} scored fakes of a run that was cut short are used again"]
    kept.delete()
    assert not (tmp_path / "blocks").exists()


def test_a_short_run_writes_nothing(tmp_path: Path) -> None:
    blocks(scorer(Counted(), keeping(tmp_path)))
    assert list((tmp_path / "blocks").iterdir()) == []


def test_more_than_memory_takes_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_blocks, "MOST_BYTES", 300)
    kept = keeping(tmp_path)
    one = sum(values.nbytes for values in blocks(scorer(Counted(), None), num=1)[0].parts().values())
    for num, scores in enumerate(blocks(scorer(Counted(), None))):
        kept.keep(str(num), scores)
        assert kept._waiting_bytes <= 300
    assert 100 < one < 300


def test_blocks_under_another_mark_are_deleted(tmp_path: Path, at_once: None) -> None:
    blocks(scorer(Counted(), keeping(tmp_path)))
    again, said = Counted(), list[str]()
    blocks(scorer(again, keeping(tmp_path, said, "other nets")))
    assert again.count == NUM_BLOCKS and said == []


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 3),
        lambda path: flip(path, path.stat().st_size - 1),
        lambda path: flip(path, path.stat().st_size // 2),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      "),
    ],
)
def test_a_damaged_file_is_said_and_drawn_again(tmp_path: Path, at_once: None, damage: Callable[[Path], None]) -> None:
    wanted = blocks(scorer(Counted(), keeping(tmp_path)))
    files = sorted((tmp_path / "blocks").iterdir())
    assert len(files) == NUM_BLOCKS
    damage(files[2])
    again, said = Counted(), list[str]()
    assert same(blocks(scorer(again, keeping(tmp_path, said))), wanted)
    assert again.count == 1
    assert sum("000003.safetensors" in line and "drawn again" in line for line in said) <= 1


def test_no_bit_of_a_head_changes_what_is_found(tmp_path: Path) -> None:
    """Several blocks in one file: lengths, keys, types and sizes in the head are as good as the columns."""
    kept = KeptBlocks(tmp_path / "blocks", "mark", lambda text: None, whole=True)
    wanted = blocks(scorer(Counted(), kept))
    kept.flush()
    (path,) = kept.files()
    good = path.read_bytes()
    head, rand = 8 + int.from_bytes(good[:8], "little"), random.Random(0)
    start = good.index(b"blocks")
    places = [*range(start, good.index(b"digest") if good.index(b"digest") > start else start + 200)]
    used = 0
    for place in [*places, *(rand.randrange(head) for _ in range(100))]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << rand.randrange(8)
        path.write_bytes(damaged)
        again = Counted()
        assert same(blocks(scorer(again, keeping(tmp_path))), wanted), place
        used += again.count == 0
        for left in (tmp_path / "blocks").iterdir():
            left.unlink()
    assert used < len(places) // 4


def test_a_pipe_among_the_files_is_left_out(tmp_path: Path, at_once: None) -> None:
    wanted = blocks(scorer(Counted(), keeping(tmp_path)))
    os.mkfifo(tmp_path / "blocks" / "000099.safetensors")
    again, said = Counted(), list[str]()
    assert same(blocks(scorer(again, keeping(tmp_path, said))), wanted) and again.count == 0
    assert sum("000099.safetensors" in line for line in said) == 1


def test_a_disk_that_takes_no_more_ends_nothing(tmp_path: Path, at_once: None) -> None:
    said = list[str]()
    kept = keeping(tmp_path, said)
    (tmp_path / "blocks").rmdir()
    (tmp_path / "blocks").touch()
    wanted = blocks(scorer(Counted(), None))
    assert same(blocks(scorer(Counted(), kept)), wanted)
    assert len(said) == 1 and said[0].startswith("warning: scored fakes cannot be kept (")


def test_latents_are_part_of_what_a_block_is_made_of(tmp_path: Path, at_once: None) -> None:
    score = scorer(Counted(), keeping(tmp_path))
    label_B, z_BZ = torch.arange(SIZE) % 3, torch.ones(SIZE, 2)
    shown = [torch.full((SIZE, 1, 4, 4), fill, dtype=torch.uint8) for fill in (1, 2)]

    def at(latents: Tensor, images: Tensor) -> Tensor:
        return score.at(latents, label_B, generator(0, "hard"), 0, lambda: images).images

    assert int(at(z_BZ, shown[0]).max()) == 1
    score = dataclasses.replace(score, kept=keeping(tmp_path))
    assert int(at(z_BZ, shown[1]).max()) == 1, "the block of before"
    assert int(at(2 * z_BZ, shown[1]).max()) == 2
    assert block_key(generator(0), label_B) != block_key(generator(0), label_B, z_BZ) != block_key(generator(1), z_BZ)
