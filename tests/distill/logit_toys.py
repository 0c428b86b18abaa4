"""Small logits, batches and a plain softmax in numpy for the tests of the logit-based KD losses."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax as numpy_log_softmax
from torch import Tensor

from cgankd.distill.base import Batch, DataSpec, Distiller, ModelSpec
from cgankd.rng import generator
from cgankd.types import Outputs

CLASSES = 5


def logits(num: int = 8, classes: int = CLASSES, name: str = "student", spread: float = 3.0) -> Tensor:
    """Logits [num, classes] in float64, wanting a gradient."""
    drawn = torch.randn(num, classes, generator=generator("logits", name), dtype=torch.float64)
    return (spread * drawn).requires_grad_()


def labels(num: int = 8, classes: int = CLASSES) -> Tensor:
    return torch.randint(classes, (num,), generator=generator("labels"))


def batch(y_B: Tensor, is_fake: list[bool] | None = None) -> Batch:
    return Batch({}, y_B, is_fake=None if is_fake is None else torch.tensor(is_fake))


def log_p(z: Tensor | np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-softmax of rows in numpy."""
    array = z.detach().numpy() if isinstance(z, Tensor) else z
    return np.asarray(numpy_log_softmax(array / temperature, axis=-1))


def kl(log_t: np.ndarray, log_s: np.ndarray) -> np.ndarray:
    """KL of each row of log-probabilities."""
    return np.asarray((np.exp(log_t) * (log_t - log_s)).sum(axis=-1))


def number(term: Tensor | int) -> float:
    """A scalar term as a number."""
    assert isinstance(term, Tensor) and term.shape == ()
    return float(term.detach())


def terms(method: Distiller, student: Tensor, teacher: Tensor, rows: Batch, epoch: float = 0) -> dict[str, float]:
    """A method's terms on bare predictions, as numbers."""
    found = method.losses(Outputs(student), Outputs(teacher), rows, epoch)
    return {name: number(term) for name, term in found.items()}


def total(method: Distiller, student: Tensor, teacher: Tensor, rows: Batch, epoch: float = 0) -> float:
    return sum(terms(method, student, teacher, rows, epoch).values())


def data_spec(num_classes: int = CLASSES, period: float | None = None) -> DataSpec:
    return DataSpec(num_samples=8, num_classes=num_classes, image_shape=(1, 8, 8), period=period)


def build(method: Distiller, num_classes: int = CLASSES, period: float | None = None) -> Distiller:
    """A method built for nets without features; returns it."""
    spec = ModelSpec(num_outputs=max(num_classes, 1), pooled_dim=4, stages=())
    method.build(spec, spec, data_spec(num_classes, period))
    return method


def io_dict(z: Tensor) -> dict[str, dict[str, Tensor]]:
    """The form in which torchdistill takes outputs."""
    return {"net": {"output": z}}


TORCHDISTILL = {
    "student_module_path": "net",
    "student_module_io": "output",
    "teacher_module_path": "net",
    "teacher_module_io": "output",
}
