"""What of a machine a number depends on beside the job: code, torch, and how its processor or device computes."""

from __future__ import annotations

from dataclasses import dataclass

from cgankd.config import ConfigError

CODE = ("cgankd", "pipelines")


class Refused(ConfigError):
    """A worker that would compute other numbers, or was sent other bytes, than this machine; one sentence."""


@dataclass(frozen=True)
class Card:
    """The facts of one machine, as digests and words that are compared for equality."""

    code: str
    """SHA-256 of the source of this project."""
    torch: str
    arithmetic: str
    """The class of precision: kind of processor with the units that round differently, and the CUDA device where one is used."""

    def check(self, wanted: Card, node: str) -> None:
        """Raise Refused where this card, of the worker on `node`, is not that of the machine that sends the jobs."""
        for what, own, other, cure in (
            ("torch", self.torch, wanted.torch, f"install torch {wanted.torch} there"),
            ("code of cgankd (SHA-256)", self.code[:12], wanted.code[:12], "install the same version there"),
            ("arithmetic", self.arithmetic, wanted.arithmetic, "start the command on a machine of that kind"),
        ):
            if own != other:
                raise Refused(
                    f"the worker on {node} refuses: its {what} is {own}, that of this machine is {other}, and numbers would"
                    f" depend on where a job ran; {cure}, or take that node out of the cluster"
                )


def card_of(device: str) -> Card:
    """The card of this machine for jobs on a device, "cpu" or "cuda"."""
    import torch

    from pipelines.files.digests import source_digest
    from pipelines.runtime.machine import arithmetic

    return Card(source_digest(*CODE), torch.__version__, arithmetic(device))
