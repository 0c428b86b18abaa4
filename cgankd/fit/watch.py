"""Numbers that are not finite: where a training sees them, and what it does then.

A loss on the processor is looked at in every step, which costs nothing there. On a device losses are only summed, and the
sum is looked at where the loop waits for the device anyway: at its log steps, and before its state is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from cgankd.fit.course import Setback
from cgankd.fit.loop import Loop
from cgankd.types import Diverged, Images, PredictFn

T = TypeVar("T")
NAMED = 3
"""Tensors that a message names."""


class NotFinite(Diverged):
    """What is not finite in a training; `setting` is the learning rate to lower, or the file to replace; `step` counts from 1.

    The loop fills in what is left out.
    """

    def __init__(self, found: str, setting: str = "", step: int | None = None) -> None:
        cure = "give another" if setting.endswith(".file") else "lower it"
        super().__init__(f"{setting or 'the learning rate'}: not finite: {found}; {cure}")
        self.found, self.setting, self.step = found, setting, step


class Watch:
    """Looks at the losses of one training, and at its state before it is saved.

    `state` gives all that the training holds: nets, averages, optimisers.
    """

    def __init__(self, loop: Loop, state: Callable[[], Mapping[str, object]]) -> None:
        self.loop, self.state = loop, state
        self.sum: Tensor | None = None

    def see(self, loss: Tensor, done: int) -> None:
        """Take in the loss of the step that makes `done` steps, before it moves a weight. Raises NotFinite."""
        self.loop.course.step = done
        loss = loss.detach()
        if loss.device.type == "cpu":
            value = float(loss)
            if not math.isfinite(value):
                raise NotFinite(self.words([f"loss {value}"]))
        else:
            self.sum = (torch.zeros_like(loss) if self.sum is None else self.sum) + loss

    def around(self, step: Callable[..., T], *args: object) -> T:
        """step(*args); an error of it that weights which are not finite brought about is NotFinite."""
        try:
            return step(*args)
        except RuntimeError:  # a decomposition or a draw that refuses NaN
            self.check_state()
            raise

    def check(self, values: Mapping[str, float] | None = None) -> None:
        """Look at the losses since the last look, and at logged values. Raises NotFinite."""
        bad = [f"{name} {value}" for name, value in (values or {}).items() if not math.isfinite(value)]
        total, self.sum = 0.0 if self.sum is None else float(self.sum), None
        if not math.isfinite(total) and not bad:
            bad = [f"loss {total}"]
        if bad:
            raise NotFinite(self.words(bad))

    def save(self, done: int, state: dict[str, object]) -> None:
        """Keep the state after `done` steps. Raises NotFinite where it is no good one."""
        self.check()
        self.check_state(state)
        self.loop.save(done, state)

    def check_state(self, state: Mapping[str, object] | None = None) -> None:
        """Raise NotFinite where a tensor of the state, by default that of now, is not finite."""
        if not_finite(self.state() if state is None else state):
            raise NotFinite(self.words([]))

    def words(self, bad: list[str]) -> str:
        """What is bad, with the tensors of the present state that are not finite."""
        return "; ".join(filter(None, [", ".join(bad), named(not_finite(self.state()))]))


def not_finite(state: object) -> list[str]:
    """Names of the tensors in a nested state that hold NaN or infinite numbers; one wait for each device."""
    found: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors(state, ""):
        found.setdefault(tensor.device, []).append((name, tensor.detach()))
    bad: list[str] = []
    for pairs in found.values():
        # A sum is one fast pass; it is not finite where an entry is not, and hardly ever else, which is looked up.
        sums = torch.stack([tensor.sum(dtype=torch.float32).float() for _, tensor in pairs])
        for (name, tensor), sound in zip(pairs, sums.isfinite().tolist(), strict=True):
            if not (sound or bool(tensor.isfinite().all())):
                bad.append(name)
    return bad


def tensors(state: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a nested state by dotted name."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and state.numel():
            yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors(value, f"{name}.{key}" if name else str(key))


def named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more tensors" if more > 0 else "")


def sound(predict: PredictFn, setting: str = "") -> PredictFn:
    """`predict`, which raises NotFinite where an output is not finite."""

    def checked(images_BCHW: Images) -> Tensor:
        out_BO = predict(images_BCHW)
        check_outputs(out_BO, setting)
        return out_BO

    return checked


def check_outputs(out_BO: Tensor, setting: str = "") -> None:
    """Raise NotFinite where an output is not finite."""
    bad = int((~out_BO.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise NotFinite(f"outputs of {bad} of {len(out_BO)} images", setting)


def with_setback(
    loop: Loop, setting: str, nets: Sequence[nn.Module], train: Callable[[], T], precision: str | None = None
) -> T:
    """train(), and where its numbers are not finite once more from the last good state, or the start, at `loop.rate`.

    `nets` are those that `train` is given and moves; `setting` and `precision` name what to lower and what to set to fp32.
    Raises Diverged the second time, also where the first was before a kill.
    """
    first = [{name: value.detach().clone() for name, value in net.state_dict().items()} for net in nets]
    for last in (False, True):
        try:
            return train()
        except NotFinite as error:
            course = loop.course
            failed = Setback(error.step or course.step, 0, error.found, error.setting or setting)
            before = course.setback or course.failed
            if last or before is not None:
                raise Diverged(told(failed, before, precision)) from None
            course.failed = failed
        # Out of the handler, as the error's trace holds the nets and optimisers of the training that failed.
        for net, state in zip(nets, first, strict=True):
            net.load_state_dict(state)
    raise AssertionError("the second failure is raised")


def told(failed: Setback, before: Setback | None, precision: str | None) -> str:
    """The sentence for the user."""
    assert before is not None
    cure = f"lower {failed.setting}" + (f", or set {precision} to fp32" if precision else "")
    return (
        f"{failed.setting}: the loss, the weights or the outputs are not finite at step {failed.step} ({failed.found}),"
        f" and were so at step {before.step} before the rate was halved; {cure}"
    )


def slow_down(parts: Iterable[object], rate: float) -> None:
    """Set the rate of optimisers to a share of the one they were made with, whatever their loaded state has."""
    for part in parts:
        if isinstance(part, torch.optim.Optimizer):
            for group in part.param_groups:
                group["lr"] = rate * part.defaults["lr"]
