"""`takd`: a net between teacher and student is trained by kd first, and the student learns from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase, RunTeacher
from cgankd.distill.losses.kd import KD
from cgankd.distill.rows import hard_labels
from cgankd.distill.spec import another_net, check_named
from cgankd.types import Outputs

SOFT = "softmax at T (scalar: none)"


class TeacherAssistant(Distiller):
    """kd from the teacher to an assistant, then kd from the assistant to the student (Mirzadeh et al., arXiv 1902.03393).

    The assistant is a net like the teacher with `assistant_width` times its channels, or the net `assistant_net` (with
    `assistant_channels` where that one has a width), which a teacher of fixed channels needs. It is trained for
    `assistant_share` times the student's steps with (1 - soft_weight) * hard + soft_weight * soft; T 10 and soft_weight
    0.5 are those of the cGAN-KD comparison. `losses` takes the assistant's outputs [B, O] as the teacher's, which
    `run_teacher` puts there; the teacher itself is not run any more.
    """

    name = "takd"
    needs = Needs(label=True)
    scalar = True
    source = "Mirzadeh et al., AAAI 2020, arXiv 1902.03393"
    flows = (
        Flow("teacher.logits", "assistant.logits", SOFT, "KL * T^2 (scalar: L1)", "soft_weight", phase="assistant"),
        Flow("labels", "assistant.logits", "none", "cross-entropy (scalar: L1)", "1 - soft_weight", phase="assistant"),
        Flow("assistant.logits", "student.logits", SOFT, "KL * T^2 (scalar: L1)", "soft_weight"),
    )

    def __init__(
        self,
        *,
        assistant_width: float = 0.5,
        assistant_net: str | None = None,
        assistant_channels: int | None = None,
        assistant_share: float = 1.0,
        assistant_learning_rate: float | None = None,
        temperature: float = 10.0,
        soft_weight: float = 0.5,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("assistant_width", assistant_width), ("assistant_share", assistant_share)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, but is {value!r}")
        check_named("assistant_net", assistant_net, "assistant_channels", assistant_channels)
        if assistant_learning_rate is not None and not assistant_learning_rate > 0:
            raise ValueError(f"assistant_learning_rate must be null or positive, but is {assistant_learning_rate!r}")
        self.assistant_width, self.assistant_share = assistant_width, assistant_share
        self.assistant_net, self.assistant_channels = assistant_net, assistant_channels
        self.assistant_learning_rate = assistant_learning_rate
        self.kd = KD(temperature=temperature, soft_weight=soft_weight, fake_weight=fake_weight)
        self.task_weight = self.kd.task_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the assistant. Raises ValueError where the teacher cannot be scaled and no net is named."""
        super().build(student, teacher, data)
        self.kd.build(student, teacher, data)
        option = "student.distiller_options.assistant_net"
        named = (self.assistant_net, self.assistant_channels)
        self.assistant = another_net(teacher, "teacher", option, self.assistant_width, *named)

    def train(self, mode: bool = True) -> TeacherAssistant:
        """The assistant is in training mode in its own phase alone, where `phase_losses` sees to it."""
        super().train(mode)
        if hasattr(self, "assistant"):
            self.assistant.eval()
        return self

    def phases(self) -> list[Phase]:
        """The assistant's, then the student's."""
        return [Phase("assistant", self.assistant_share, self.assistant_learning_rate), Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"hard", "soft"} of the assistant."""
        self.assistant.train()
        pred_BO: Tensor = self.assistant(batch.x["plain"]).float()
        hard = hard_labels(pred_BO, batch.y, self.period).mean()
        return {"hard": self.task_weight * hard, **self.kd.losses(Outputs(pred_BO), teacher, batch)}

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The assistant's in its phase, none in the student's."""
        return list(self.assistant.parameters()) if phase == "assistant" else []

    def run_teacher(self, run: RunTeacher, x_BCHW: Tensor, is_fake_B: Tensor, phase: str) -> Outputs:
        """The assistant in the student's training, the teacher before."""
        if phase != "train":
            return run(x_BCHW)
        with torch.no_grad():
            return Outputs(self.assistant(x_BCHW).float())

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"}; `teacher` holds the assistant's outputs."""
        return self.kd.losses(student, teacher, batch, epoch)


METHODS = {"takd": TeacherAssistant}
