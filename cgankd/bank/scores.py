"""A block of fakes with all its scores: what M1 and M2 look at, made by generator, ratio and teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from cgankd.bank.selections import Columns
from cgankd.data.store.banks import PoolRows
from cgankd.types import Dealing, Diverged, Draw, PredictFn, RatioFn, SupplyEnded, Task


@dataclass(frozen=True)
class Scores:
    """A block of fakes with everything M1 and M2 need to know.

    images uint8 [B, C, H, W]; asked and predicted [B] labels in raw units; ratio, teacher_error, uniform float32 [B];
    teacher_output float16 [B, O]; shard is the number of the block within its label group; teacher_spread float32 [B], how
    far the members of the teacher disagree, None where it has none.
    """

    images: Tensor
    asked: Tensor
    predicted: Tensor
    ratio: Tensor
    teacher_error: Tensor
    teacher_output: Tensor
    uniform: Tensor
    shard: int
    teacher_spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.asked)

    def columns(self, group: int) -> Columns:
        """The scores as columns; all rows of a block are of one group."""
        return Columns(
            torch.full((len(self),), group), self.ratio, self.teacher_error, self.uniform, self.teacher_spread
        )

    def rows(self) -> PoolRows:
        """The block as rows of a pool."""
        shard = torch.full((len(self),), self.shard, dtype=torch.int32)
        return PoolRows(**(vars(self) | {"shard": shard}))

    def parts(self) -> dict[str, Tensor]:
        """The columns that are there, by name."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shard"}
        return {name: values for name, values in columns.items() if values is not None}

    def head(self, num: int) -> Scores:
        """The first `num` fakes of the block."""
        return Scores(**{name: values[:num] for name, values in self.parts().items()}, shard=self.shard)


ScoreFn = Callable[[Tensor, torch.Generator, int], Scores]
"""Labels [B], generator and number of the block within its label group to Scores, as `Scorer` gives them."""


def score(
    scorer: Scorer, label_B: Tensor, gen: torch.Generator, shard: int, images_BCHW: Tensor | None = None
) -> Scores:
    """Draw fakes for the labels, unless their images are given, and score them; the uniform of the rejection test comes from
    `gen` after the images.

    Raises Diverged where a ratio or a teacher error is NaN.
    """
    task, spread_B = scorer.task, None
    images_BCHW = scorer.draw(label_B, gen) if images_BCHW is None else images_BCHW
    if scorer.spreading is None:
        out_BO = scorer.teacher(images_BCHW)
    else:
        both = scorer.spreading(images_BCHW)
        out_BO, spread_B = both[:, :-1], both[:, -1]
    ratio_B, error_B = scorer.ratio(images_BCHW, label_B).float(), task.error(out_BO, label_B).float()
    for name, value_B in (("ratio", ratio_B), ("teacher", error_B)):
        if count := int(value_B.isnan().sum()):
            raise Diverged(f"{name}: NaN scores for {count} of {len(label_B)} fakes; run `cgankd {name}` again")
    uniform_B = torch.rand(len(label_B), generator=gen)
    predicted_B, output_BO = task.predict(out_BO), out_BO.to(torch.float16)
    return Scores(images_BCHW, label_B, predicted_B, ratio_B, error_B, output_BO, uniform_B, shard, spread_B)


class Kept(Protocol):
    """Where scored blocks outlive a kill, each under its `block_key`."""

    def find(self, key: str) -> Scores | None: ...

    def keep(self, key: str, scores: Scores) -> None: ...


def block_key(gen: torch.Generator, *made_of: Tensor) -> str:
    """What a block is a function of, beside the nets: the seed of its generator, its labels, and its latents where given."""
    digest = hashlib.sha256()
    for tensor in made_of:
        digest.update(tensor.numpy().tobytes())
    return f"{gen.initial_seed():016x}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Scorer:
    """`score` of one generator, ratio and teacher; each run of blocks of a label group begins with its block 0.

    A generator with a finite stock (Dealing) deals it anew there, so a block stays a function of those before it.
    """

    draw: Draw
    ratio: RatioFn
    teacher: PredictFn
    task: Task
    spreading: PredictFn | None = None
    """The teacher's outputs with how far its members disagree as one more column [B, O + 1]; None where it has none."""
    kept: Kept | None = None
    """Blocks of a run that was killed, which are not drawn again; None keeps none."""

    def __call__(self, label_B: Tensor, gen: torch.Generator, shard: int) -> Scores:
        """The scores; of a finite stock for those labels only that an image is left for.

        Raises SupplyEnded where that is none.
        """
        key = block_key(gen, label_B)
        if (found := self._find(key, shard)) is not None:
            self.skip(label_B, shard)
            return found
        self._begin(label_B, shard)
        return self._keep(key, score(self, self._served(label_B), gen, shard))

    def at(
        self, z_BZ: Tensor, label_B: Tensor, gen: torch.Generator, shard: int, images: Callable[[], Tensor]
    ) -> Scores:
        """The scores of the `images` that the caller draws at these latents."""
        key = block_key(gen, label_B, z_BZ)
        if (found := self._find(key, shard)) is not None:
            return found
        return self._keep(key, score(self, label_B, gen, shard, images()))

    def skip(self, label_B: Tensor, shard: int) -> None:
        """Go on as if this block had been drawn, for a caller that has it already."""
        self._begin(label_B, shard)
        if isinstance(self.draw, Dealing):
            self.draw.skip(self._served(label_B))

    def _find(self, key: str, shard: int) -> Scores | None:
        found = None if self.kept is None else self.kept.find(key)
        return None if found is None else replace(found, shard=shard)

    def _keep(self, key: str, scores: Scores) -> Scores:
        if self.kept is not None:
            self.kept.keep(key, scores)
        return scores

    def _served(self, label_B: Tensor) -> Tensor:
        if not isinstance(self.draw, Dealing):
            return label_B
        served_B = self.draw.servable(label_B)
        if not bool(served_B.any()):
            raise SupplyEnded("the source of fakes has no image left for these labels")
        return label_B[served_B]

    def _begin(self, label_B: Tensor, shard: int) -> None:
        if shard == 0 and isinstance(self.draw, Dealing):
            self.draw.restart(label_B)
