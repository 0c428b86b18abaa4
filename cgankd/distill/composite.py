"""Several KD losses at once, each with a weight: "CRD + KD" and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, ModelSpec, Needs, Phase, RunTeacher
from cgankd.types import Outputs


def joined_needs(methods: Sequence[Distiller]) -> Needs:
    """What the engine must provide for all of them; the teacher's outputs alone only where each needs no more."""
    values: dict[str, object] = {}
    for field in fields(Needs):
        found = [getattr(method.needs, field.name) for method in methods]
        if field.name == "views":
            values["views"] = frozenset().union(*found)
        else:
            values[field.name] = all(found) if field.name == "teacher_pred_only" else any(found)
    return Needs(**values)  # type: ignore[arg-type]


def chooses(method: Distiller) -> bool:
    """True where the method, or one inside it, chooses the bank's rows."""
    return any(isinstance(m, Distiller) and m.refresh_every() is not None for m in method.modules())


class CompositeDistiller(Distiller):
    """sum_i weight_i * L_i of several KD losses, on one run of both nets.

    The task's loss has the smallest `task_weight` among them: a method that lowers it has said why. Phases come one
    method after the other. Raises ValueError where two methods cannot go together: two nets to ship, other views than
    the plain one that differ, two that stand in for the teacher, or two that choose the bank's rows.
    """

    name = "composite"
    source = "a weighted sum"
    scalar = True

    def __init__(self, parts: Sequence[tuple[float, Distiller]]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a list of distillers must hold at least one")
        self.weights = [weight for weight, _ in parts]
        self.parts = nn.ModuleList([distiller for _, distiller in parts])
        self.needs = joined_needs(self.methods)  # type: ignore[misc]
        self.task_weight = min(method.task_weight for method in self.methods)
        self.task_on_fakes = all(method.task_on_fakes for method in self.methods)
        self.weighs_rows = any(method.weighs_rows for method in self.methods)
        self.num_negatives = max(method.num_negatives for method in self.methods)
        if len({method.needs.views for method in self.methods}) > 1:
            names = ", ".join(f"{m.name} ({'+'.join(sorted(m.needs.views))})" for m in self.methods)
            raise ValueError(f"these methods look at different views of a batch and cannot be added: {names}")
        for hook, said in (
            ("student_for_inference", "ship a net of their own"),
            ("run_teacher", "replace the teacher"),
        ):
            own = [m.name for m in self.methods if m.has_own(hook)]
            if len(own) > 1:
                raise ValueError(f"{' and '.join(own)} both {said}; keep one of them")
        choosers = [m.name for m in self.methods if chooses(m)]
        if len(choosers) > 1:
            raise ValueError(f"{' and '.join(choosers)} both choose the bank's rows; keep one of them")

    @property
    def methods(self) -> list[Distiller]:
        """The KD losses added up."""
        return [part for part in self.parts if isinstance(part, Distiller)]

    def has_own(self, hook: str) -> bool:
        """By any part."""
        return any(method.has_own(hook) for method in self.methods)

    def refusal(self, data: DataSpec) -> str | None:
        """That of the first part that has one."""
        return next((why for why in (method.refusal(data) for method in self.methods) if why is not None), None)

    def check_teacher(self, teacher: ModelSpec) -> None:
        """As each part does."""
        for method in self.methods:
            method.check_teacher(teacher)

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Build each part. Raises TaskNotSupported of the first that cannot distil these labels."""
        self.check_task(data)
        for method in self.methods:
            method.build(student, teacher, data)
        self.needs = joined_needs(self.methods)  # type: ignore[misc]  # A part may ask for less once it knows the labels.
        super().build(student, teacher, data)
        self.num_negatives = max(method.num_negatives for method in self.methods)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """Terms by "<number>.<method>.<term>", each times the weight of its method."""
        terms = {}
        for number, (weight, method) in enumerate(zip(self.weights, self.methods, strict=True)):
            for name, value in method.losses(student, teacher, batch, epoch).items():
                terms[f"{number}.{method.name}.{name}"] = weight * value
        return terms

    def _at(self, phase: str) -> tuple[Distiller, str]:
        number, _, name = phase.partition(".")
        return self.methods[int(number)], name

    def phases(self) -> list[Phase]:
        """The phases of each method in turn, named "<number>.<phase>"; then the student's own."""
        early = []
        for number, method in enumerate(self.methods):
            for p in method.phases()[:-1]:
                early.append(Phase(f"{number}.{p.name}", p.share, p.learning_rate, p.uses_student))
        return [*early, Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Those of the method whose phase it is."""
        method, name = self._at(phase)
        return method.phase_losses(name, student, teacher, batch)

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Those of the method whose phase it is; all methods' in the last."""
        if "." in phase:
            method, name = self._at(phase)
            return method.phase_parameters(name)
        return [p for method in self.methods for p in method.phase_parameters(phase)]

    def uses_teacher(self, phase: str) -> bool:
        """As the method does whose phase it is; in the last phase as any does."""
        if "." in phase:
            method, name = self._at(phase)
            return method.uses_teacher(name)
        return any(method.uses_teacher(phase) for method in self.methods)

    def run_teacher(self, run: RunTeacher, x_BCHW: Tensor, is_fake_B: Tensor, phase: str) -> Outputs:
        """By the one part that has its own way with the teacher, where there is one."""
        for number, method in enumerate(self.methods):
            if method.has_own("run_teacher"):
                own = phase.removeprefix(f"{number}.")
                return method.run_teacher(run, x_BCHW, is_fake_B, own)
        return run(x_BCHW)

    def no_decay(self) -> set[str]:
        """Names with the prefix of their part."""
        return {f"parts.{i}.{name}" for i, method in enumerate(self.methods) for name in method.no_decay()}

    def rates(self) -> dict[str, float]:
        """Names with the prefix of their part."""
        return {f"parts.{i}.{name}": rate for i, m in enumerate(self.methods) for name, rate in m.rates().items()}

    def student_for_inference(self) -> nn.Module:
        """That of the one part that ships a net of its own, else the student."""
        for method in self.methods:
            if method.has_own("student_for_inference"):
                return method.student_for_inference()
        return super().student_for_inference()
