"""What every KD loss is: a `Distiller` that says what it needs, builds its own modules, and gives weighted loss terms.

The engine runs the nets, adds the task's own loss with `task_weight`, and optimises what `param_groups` returns; a
distiller only compares `Outputs`. All terms are computed in float32 whatever the autocast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from cgankd.types import Outputs

VIEWS = ("plain", "weak", "strong", "rot4")
"""Views a loss may ask for, in the order in which outputs hold them."""
RunTeacher = Callable[[Tensor], Outputs]
"""The frozen teacher on images [B, C, H, W] in [0, 1]."""


class TaskNotSupported(ValueError):
    """A KD loss that compares class logits was asked to distil a scalar."""


@dataclass(frozen=True)
class Batch:
    """What a KD loss may know of a batch beside both nets' outputs.

    x: images [B, C, H, W] in [0, 1] by view ("plain", "weak", "strong", "rot4" [4 B, C, H, W]), the views of `Needs`.
    y [B]: int64 classes (of a mixture the one with the greater share), or labels normalised to [0, 1]. index [B]: row in
    real images then bank. neg_index [B, K]: rows of negatives. is_fake [B] bool. teacher_cache [B, O]: stored outputs of
    the teacher on the plain image.

    Where a loss asks for other views than "plain", both nets' outputs hold the views it asked for one after the other,
    in the order of `VIEWS`: B rows for each of plain, weak and strong, then 4 B rows of rot4 (all images unturned, then
    all at 90, 180 and 270 degrees). The task's loss is taken on the first B rows.
    """

    x: Mapping[str, Tensor]
    y: Tensor
    index: Tensor | None = None
    neg_index: Tensor | None = None
    is_fake: Tensor | None = None
    teacher_cache: Tensor | None = None
    soft_weight: Tensor | None = None
    """How much the teacher's answer counts on each row [B], 1 on average; only methods that weigh rows are given it."""


@dataclass(frozen=True)
class ModelSpec:
    """Shapes of one net, read off a dry run on two images; `net` is the live module.

    make(factor): a fresh net like it with so many times its channels, None where those are fixed; named(name, width): a
    fresh net by its name for the same images and outputs. pooled_dim is 0 and stages are empty where it shows none.
    stages: (C, H, W) of each stage map. `norms`: the batch norm (or None) whose output is each preact, for OFD's margins.
    """

    num_outputs: int
    pooled_dim: int
    stages: tuple[tuple[int, int, int], ...]
    net: nn.Module | None = None
    make: Callable[[float], nn.Module] | None = None
    norms: tuple[nn.Module | None, ...] = ()
    named: Callable[[str, int | None], nn.Module] | None = None


@dataclass(frozen=True)
class DataSpec:
    """The training set as a KD loss sees it: rows of real images then bank, and their labels.

    num_classes is 0 for scalar labels; `period` is the length of the circle in normalised units where labels are
    angles (None = a line). labels [N] as in `Batch.y`; fake [N] bool. `num_steps` and `batch_size` are the run's.
    """

    num_samples: int
    num_classes: int
    image_shape: tuple[int, int, int]
    labels: Tensor | None = None
    fake: Tensor | None = None
    period: float | None = None
    num_steps: int = 0
    batch_size: int = 0


@dataclass(frozen=True)
class Needs:
    """What the engine must provide; it computes nothing that no distiller asks for."""

    logits: bool = False
    """Compares class logits, so refuses a scalar task."""
    pooled: bool = False
    stages: bool = False
    preacts: bool = False
    teacher_head: bool = False
    teacher_norms: bool = False
    input_grad: bool = False
    """Teacher and student are differentiated with respect to the image; no caching, no inference mode."""
    label: bool = False
    """Of class labels it compares with the one class of each image, which a mixture of two does not have."""
    index: bool = False
    neg_index: bool = False
    views: frozenset[str] = frozenset({"plain"})
    teacher_pred_only: bool = False
    """The teacher's outputs alone are used, so they can come from a cache when the view is the plain image."""


@dataclass(frozen=True)
class Flow:
    """One arrow of the general teacher-student model (arXiv 1912.13179): what is compared with what, and how."""

    source: str
    """For example teacher.logits, teacher.stage:2, labels, bank.samples."""
    target: str
    transform: str
    distance: str
    weight: str
    schedule: str = "constant"
    phase: str = "train"


@dataclass(frozen=True)
class Phase:
    """A training before (or being) the student's: whose parameters move and for how long.

    `share` is its length as a share of the student's steps (0 = the student's own training, the last phase).
    `phase_losses` is what it minimises; the engine adds the task's loss only in the last phase. With `uses_student` the
    student runs in this phase and its parameters move too; else they are not touched.
    """

    name: str
    share: float = 0.0
    learning_rate: float | None = None
    uses_student: bool = False


class Distiller(nn.Module):
    """Base of all KD losses. Sub-classes are built from keyword options alone and own no module before `build`.

    A sub-class sets the class attributes, overrides `losses`, and where needed `build`, `phases`, `phase_losses`,
    `run_teacher`, `uses_teacher` and `student_for_inference`.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    scalar: ClassVar[bool] = False
    """Also distils scalar labels."""
    source: ClassVar[str]
    """Paper, with its arXiv number or venue."""
    status: ClassVar[Literal["published", "reconstruction", "adaptation"]] = "published"
    flows: ClassVar[Sequence[Flow]] = ()
    task_weight: float = 1.0
    """Weight of the task's own loss beside this one; 0 where the method replaces it."""
    task_on_fakes: bool = True
    """False where fakes take other labels than those of the batch, so that the task's loss is that of real rows alone."""
    weighs_rows: bool = False
    """Its term on the teacher's answers takes `Batch.soft_weight`."""
    num_negatives: int = 4096
    """K of `Batch.neg_index`, where the method needs it."""
    student_spec: ModelSpec
    teacher_spec: ModelSpec
    data_spec: DataSpec

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make auxiliary modules from the shapes; draws from torch's global generator.

        Raises TaskNotSupported, and ValueError where the teacher does not show the features this loss compares.
        """
        self.check_task(data)
        self.check_teacher(teacher)
        self.student_spec, self.teacher_spec, self.data_spec = student, teacher, data

    @property
    def period(self) -> float | None:
        """Length of the circle in normalised units where labels lie on one; None before `build`."""
        data: DataSpec | None = getattr(self, "data_spec", None)
        return None if data is None else data.period

    def refusal(self, data: DataSpec) -> str | None:
        """Why it cannot distil these labels; None where it can."""
        if data.num_classes == 0 and not self.scalar:
            return f"{self.name} compares class logits, so it cannot distil scalar labels"
        return None

    def check_task(self, data: DataSpec) -> None:
        """Raise TaskNotSupported, with the methods that can, where it cannot distil these labels."""
        why = self.refusal(data)
        if why is not None:
            able = ", ".join(name for name, method in METHODS.items() if method().refusal(data) is None)
            raise TaskNotSupported(f"{why}; those that can: {able}")

    def check_teacher(self, teacher: ModelSpec) -> None:
        """Raise ValueError where this loss compares features and the teacher shows none, as a program does."""
        needs = self.needs
        pooled, maps = needs.pooled and not teacher.pooled_dim, needs.stages or needs.preacts
        if not needs.teacher_pred_only and (pooled or (maps and not teacher.stages)):
            raise ValueError(
                f"{self.name} compares features, but the teacher shows none (a program in teacher.file shows its outputs"
                " alone); give a state dict of teacher.net, or choose a method on outputs such as kd"
            )

    def accepts(self, num_classes: int) -> bool:
        """True where it can distil labels of so many classes (0 = scalars)."""
        return self.refusal(DataSpec(num_samples=1, num_classes=num_classes, image_shape=(1, 1, 1))) is None

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """Weighted terms without the task's loss; each is a scalar attached to the graph. `epoch` starts at 0."""
        raise NotImplementedError(f"{self.name} gives no losses")  # what a method must give, not what is left to do

    def phases(self) -> list[Phase]:
        """Trainings in order; the last is the student's own."""
        return [Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Terms of a phase before the last. `student` is empty unless the phase uses it."""
        # Not abstract: most methods have no early phase, and only those that name one in `phases` are asked.
        raise NotImplementedError(f"{self.name} names the phase {phase} and gives no losses of it")

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Own parameters that move in a phase: all of them by default."""
        return [p for p in self.parameters() if p.requires_grad]

    def uses_teacher(self, phase: str) -> bool:
        """False for a phase whose losses look at nothing of the teacher; the engine then gives empty outputs for it."""
        return True

    def refresh_every(self) -> float | None:
        """Epochs between choices of the bank's rows, where the method chooses them."""
        return None

    def run_teacher(self, run: RunTeacher, x_BCHW: Tensor, is_fake_B: Tensor, phase: str) -> Outputs:
        """The outputs that `losses` or `phase_losses` get as the teacher's; a wrapper may put others in their place."""
        return run(x_BCHW)

    def no_decay(self) -> set[str]:
        """Names of own parameters that take no weight decay beside biases and norms."""
        return set()

    def rates(self) -> dict[str, float]:
        """Names of own parameters with a learning rate of their own, as a multiple of the student's."""
        return {}

    def student_for_inference(self) -> nn.Module:
        """The net to ship: the student as it is, unless the method predicts through modules of its own."""
        assert self.student_spec.net is not None, "built with the live student"
        return self.student_spec.net

    def has_own(self, hook: str) -> bool:
        """True where this method, or one inside it, overrides `run_teacher` or `student_for_inference`."""
        return getattr(type(self), hook) is not getattr(Distiller, hook)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Names and defaults of the keyword options, from the constructor."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "self" and p.kind is p.KEYWORD_ONLY}


def describe(method: type[Distiller]) -> list[dict[str, str]]:
    """The flows of a method as rows of text, last the task's own loss where the method does not replace it."""
    weight, flows = method().task_weight, list(method.flows)
    if weight:
        flows.append(Flow("labels", "student.pred", "none", "task loss", f"task_weight, {weight:g}"))
    return [{f.name: str(getattr(flow, f.name)) for f in fields(flow)} for flow in flows]


METHODS: dict[str, type[Distiller]] = {}
"""KD losses by name; filled by cgankd.distill.methods, which the package imports."""
