"""Which KD losses can be shown mixtures of two images, or stored views, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass

from cgankd.distill.base import METHODS, Distiller, TaskNotSupported
from cgankd.distill.composite import CompositeDistiller, chooses
from cgankd.distill.wrapper import Wrapper


@dataclass(frozen=True)
class Shown:
    """What a training shows a KD loss: mixtures, and views that were made before; `num_classes` is 0 for scalars."""

    num_classes: int
    mixed: bool = False
    stored: bool = False

    def refusal(self, distiller: Distiller) -> str | None:
        """Why a KD loss, or the first of those inside it, cannot take this; None where it can."""
        parts = [m for m in distiller.modules() if isinstance(m, Distiller)]
        leaves = [m for m in parts if not isinstance(m, CompositeDistiller | Wrapper)]
        if self.stored and chooses(distiller):
            names = ", ".join(m.name for m in parts if m.refresh_every() is not None)
            return f"{names} chooses the fakes of each batch, and stored views are chosen before"
        return next((why for why in (self._why_not(method) for method in leaves) if why is not None), None)

    def _why_not(self, method: Distiller) -> str | None:
        needs = method.needs
        if (self.mixed or self.stored) and (needs.index or needs.neg_index):
            what = "a mixture is of two rows" if self.mixed else "stored views of one row differ"
            return f"{method.name} keeps features by the row of an image, and {what}"
        if self.mixed and needs.views != frozenset({"plain"}):
            return f"{method.name} compares several views of one image, and a mixture is of two"
        if self.mixed and self.num_classes and needs.label:
            return f"{method.name} compares with the class of each image, and a mixture has two"
        return None

    def check(self, distiller: Distiller) -> None:
        """Raise TaskNotSupported, with the methods that can, where a KD loss cannot take this."""
        why = self.refusal(distiller)
        if why is not None:
            able = ", ".join(name for name, method in METHODS.items() if self.takes(method()))
            raise TaskNotSupported(f"{why}; those that can: {able}")

    def takes(self, distiller: Distiller) -> bool:
        """Whether a KD loss can distil these labels and take what is shown."""
        return distiller.accepts(self.num_classes) and self.refusal(distiller) is None
