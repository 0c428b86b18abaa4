"""M3 with a teacher: the objective that runs both nets for a KD loss, adds the task's own, and trains phases first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError
from cgankd.data.batches import Batch as Rows
from cgankd.data.pixels import to_unit
from cgankd.distill.base import VIEWS, Batch, Distiller, Needs
from cgankd.fit.device import PLAIN, Forward, Plan
from cgankd.fit.ranks import ranks
from cgankd.rng import generator
from cgankd.types import Outputs, Task

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images [B, C, H, W] in [0, 1] and a generator to augmented images."""


class Negatives:
    """Rows of other classes (or, for scalars, other rows) drawn uniformly with replacement, as CRD asks for.

    groups [N]: the class of each row, or its own number. Rows are sorted by group once; a draw skips the row's own
    segment. Where a group is the whole set there is nothing else, and draws come from it.
    """

    def __init__(self, group_N: Tensor) -> None:
        self.order_N = group_N.argsort(stable=True)
        _, self.group_N, count_G = torch.unique(group_N, return_inverse=True, return_counts=True)
        self.count_G = count_G
        self.start_G = count_G.cumsum(0) - count_G

    def draw(self, index_B: Tensor, num: int, gen: torch.Generator) -> Tensor:
        """Rows [B, num]."""
        group_B = self.group_N[index_B]
        count_B1, start_B1 = self.count_G[group_B][:, None], self.start_G[group_B][:, None]
        total = len(self.order_N)
        left_B1 = torch.where(count_B1 < total, total - count_B1, total)
        place_BK = (torch.rand(len(index_B), num, generator=gen, dtype=torch.float64) * left_B1).long()
        skip_BK = (place_BK >= start_B1) & (count_B1 < total)
        return self.order_N[place_BK + skip_BK * count_B1]


@dataclass(frozen=True)
class Teacher:
    """The frozen teacher: its net in eval mode, its precision, and outputs [B, O] by row where they are cached."""

    net: nn.Module
    precision: str
    cached: Callable[[Tensor], Tensor] | None = None
    clean: bool = False
    """It sees the un-augmented image."""
    plan: Plan = PLAIN
    images: int = 0
    """So many are to come, by which the plan decides whether to compile the net."""

    def forward(self, graphs: bool = True) -> Forward:
        """The net as the engine runs it, on the plan's device."""
        return Forward(self.net.to(self.plan.device), self.precision, self.plan, self.images, passes=1, graphs=graphs)


def wants_features(needs: Needs) -> bool:
    """True where the plain forward pass is not enough."""
    return needs.pooled or needs.stages or needs.preacts or needs.teacher_head or needs.input_grad


@dataclass
class Distillation:
    """Objective of a student with a KD loss: task_weight * hard + sum of the distiller's terms.

    Terms are taken in float32 outside autocast. The teacher runs once a step, or not at all where its outputs are
    cached or not looked at; the student's features are taken only where the loss asks for them.
    """

    task: Task
    distiller: Distiller
    teacher: Teacher
    augments: Mapping[str, Augment]
    """Those of the views "weak" and "strong"."""
    seed: int
    num_rows: int
    num_steps: int
    task_weight: float | None = None
    """In place of the distiller's own, where set."""
    negatives: Negatives | None = None
    phase: str = "train"
    soft_weight_N: Tensor | None = None
    """How much the teacher's answer counts on each row; None = alike."""
    extra: nn.Module | None = field(init=False)
    run_teacher: Forward = field(init=False)

    def __post_init__(self) -> None:
        self.extra = self.distiller if self.distiller.state_dict() else None
        # A method that runs the teacher itself may show it any number of rows, each of which would be a graph of its own.
        self.run_teacher = self.teacher.forward(graphs=not self.distiller.has_own("run_teacher"))
        needs = self.distiller.needs
        if needs.input_grad and ranks().size > 1:
            raise ConfigError(
                f"student.distiller {self.distiller.name} looks at gradients by the images of a batch, which several ranks do not"
                " share; train its arms without torchrun"
            )
        if self.teacher.clean and needs.views != frozenset({"plain"}):
            raise ConfigError(
                f"student.teacher_view must be augmented for {self.distiller.name}, which compares other views than"
                " the plain one, but is 'clean'"
            )

    def parameters(self) -> list[nn.Parameter]:
        """Those of the distiller that move in this phase."""
        return [p for p in self.distiller.phase_parameters(self.phase) if p.requires_grad]

    def no_decay(self) -> list[nn.Parameter]:
        """Those of the distiller that take no weight decay."""
        exempt = self.distiller.no_decay()
        return [p for name, p in self.distiller.named_parameters() if name in exempt]

    def rates(self) -> list[tuple[nn.Parameter, float]]:
        """Those of the distiller with a learning rate of their own, as a multiple of the student's."""
        rates = self.distiller.rates()
        return [(p, rates[name]) for name, p in self.distiller.named_parameters() if name in rates]

    def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Rows, step: int) -> Mapping[str, Tensor]:
        """{"loss", "hard" (unweighted), and the distiller's weighted terms}."""
        views, inputs = self.views(unit_BCHW, batch, step)
        student = net.outputs(inputs) if wants_features(self.distiller.needs) else Outputs(net.pred(inputs))
        kd = self.batch(views, batch, step)
        teacher = self.teach(inputs, batch, kd)
        epoch = step * len(batch.labels_B) / self.num_rows
        terms = self.distiller.losses(student, teacher, kd, epoch)
        hard = self.hard(student.pred[: len(batch.labels_B)], batch)
        weight = self.distiller.task_weight if self.task_weight is None else self.task_weight
        loss = weight * hard
        for term in terms.values():
            loss = loss + term
        return {"loss": loss, "hard": hard.detach()} | {name: term.detach() for name, term in terms.items()}

    def hard(self, pred_BO: Tensor, batch: Rows) -> Tensor:
        """The task's loss, mean over the batch; rows whose labels the method gives itself add nothing."""
        if self.distiller.task_on_fakes:
            return self.task.loss(pred_BO, batch.labels_B)
        real_B = ~batch.is_fake_B
        if not bool(real_B.any()):
            return (pred_BO * 0).sum()
        return self.task.loss(pred_BO[real_B], batch.labels_B[real_B]) * real_B.float().mean()

    def views(self, unit_BCHW: Tensor, batch: Rows, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """The views of the batch by name, and those the loss asked for as one input, in the order of `VIEWS`."""
        needs = self.distiller.needs
        views = {"plain": unit_BCHW.detach().requires_grad_(True) if needs.input_grad else unit_BCHW}
        for name in ("weak", "strong"):
            if name in needs.views:
                gen = generator(self.seed, "view", name, step)
                views[name] = self.augments[name](to_unit(batch.images_BCHW), gen)
        if "rot4" in needs.views:
            views["rot4"] = torch.cat([unit_BCHW.rot90(turn, (2, 3)) for turn in range(4)])
        asked = [views[name] for name in VIEWS if name in needs.views]
        return views, asked[0] if len(asked) == 1 else torch.cat(asked)

    def batch(self, views: Mapping[str, Tensor], batch: Rows, step: int) -> Batch:
        """What the distiller may know of the batch."""
        negatives, device = None, batch.images_BCHW.device
        if self.negatives is not None:
            gen = generator(self.seed, "negatives", step)
            negatives = self.negatives.draw(batch.index_B, self.distiller.num_negatives, gen).to(device)
        cached = None if self.teacher.cached is None else self.teacher.cached(batch.index_B).to(device)
        targets_B, index_B = self.task.targets(batch.labels_B), batch.index_B.to(device)
        weight_B = None if self.soft_weight_N is None else self.soft_weight_N[batch.index_B].to(device)
        return Batch(views, targets_B, index_B, negatives, batch.is_fake_B, cached, weight_B)

    def teach(self, inputs: Tensor, batch: Rows, kd: Batch) -> Outputs:
        """The teacher's outputs on the student's inputs, or on the un-augmented images, or from the cache.

        Empty outputs where the phase looks at none.
        """
        if not self.distiller.uses_teacher(self.phase):
            return Outputs(inputs.new_zeros(0))
        if kd.teacher_cache is not None:
            return Outputs(kd.teacher_cache)
        if self.teacher.clean:
            inputs = to_unit(batch.images_BCHW)
        needs = self.distiller.needs
        run = self.run_teacher
        full = wants_features(needs) and not needs.teacher_pred_only

        def forward(x_BCHW: Tensor) -> Outputs:
            return run.outputs(x_BCHW) if full else Outputs(run.pred(x_BCHW))

        is_fake_B = batch.is_fake_B.repeat(len(inputs) // len(batch.is_fake_B))
        with torch.set_grad_enabled(needs.input_grad):
            return self.distiller.run_teacher(forward, inputs, is_fake_B, self.phase)


@dataclass
class PhaseObjective(Distillation):
    """Objective of a phase before the student's own: the distiller's `phase_losses`, without the task's loss."""

    uses_student: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extra = None  # The distiller is part of the net that this phase trains.

    def parameters(self) -> list[nn.Parameter]:
        """None beside those that `PhaseNet` lets move."""
        return []

    def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Rows, step: int) -> Mapping[str, Tensor]:
        """{"loss", and the terms of the phase}."""
        views, inputs = self.views(unit_BCHW, batch, step)
        student = net.outputs(inputs) if self.uses_student else Outputs(inputs.new_zeros(0))
        kd = self.batch(views, batch, step)
        teacher = self.teach(inputs, batch, kd)
        terms = self.distiller.phase_losses(self.phase, student, teacher, kd)
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}


class PhaseNet(nn.Module):
    """What a phase trains: the student where it takes part, and the distiller's modules; only those of the phase move."""

    def __init__(self, student: nn.Module, distiller: Distiller, uses_student: bool) -> None:
        super().__init__()
        self.distiller = distiller
        self.student = student if uses_student else None
        self.inside = [student]  # Not a module of this one where it does not take part.

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Those of the student."""
        out: Outputs = self.inside[0].outputs(unit_BCHW)  # type: ignore[operator]
        return out


@contextlib.contextmanager
def only_moving(module: nn.Module, moving: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within it only the named parameters of a module take gradients; afterwards all are as before."""
    before = {p: p.requires_grad for p in module.parameters()}
    wanted = {id(p) for p in moving}
    for p, flag in before.items():
        p.requires_grad_(flag and id(p) in wanted)
    try:
        yield
    finally:
        for p, flag in before.items():
            p.requires_grad_(flag)


@dataclass(frozen=True)
class EarlyPhase:
    """A training before the student's own: its share of the student's steps, what it trains and which parameters move."""

    name: str
    share: float
    learning_rate: float | None
    net: PhaseNet
    objective: PhaseObjective
    moving: list[nn.Parameter]


def early_phases(distillation: Distillation, student: nn.Module) -> list[EarlyPhase]:
    """The phases before the student's own, in order."""
    d, found = distillation, []
    for phase in d.distiller.phases()[:-1]:
        objective = PhaseObjective(
            task=d.task,
            distiller=d.distiller,
            teacher=d.teacher,
            augments=d.augments,
            seed=d.seed,
            num_rows=d.num_rows,
            num_steps=d.num_steps,
            negatives=d.negatives,
            phase=phase.name,
            uses_student=phase.uses_student,
        )
        moving = list(d.distiller.phase_parameters(phase.name))
        if phase.uses_student:
            moving += list(student.parameters())
        net = PhaseNet(student, d.distiller, phase.uses_student)
        found.append(EarlyPhase(phase.name, phase.share, phase.learning_rate, net, objective, moving))
    return found
