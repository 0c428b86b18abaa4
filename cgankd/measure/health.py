"""Health checks: one number against a stated threshold, with a sentence that says what to do about it.

Each check is a pure function of numbers measured elsewhere. A fatal check means that the bank would be worthless; the
bank stage refuses to go on where `bank.refuse_worthless` is set. Thresholds are rules of thumb, not theorems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DIVERSITY_LEAST = 0.5
"""Distance between two fakes of one label, as a share of that between two real images: less is a collapsed GAN."""
ZERO_SHARE_WARN, ZERO_SHARE_FATAL = 0.5, 0.9
"""Share of fakes whose ratio is exactly zero: they can never be accepted."""
MEAN_RATIO_WARN, MEAN_RATIO_FATAL = 2.0, 10.0
"""Factor by which the mean ratio on fakes, 1 in theory, may be off before calibration."""
OVERFIT_WARN, OVERFIT_FATAL = 1.5, 5.0
"""Mean ratio on training images over that on validation images."""
KAPPA_GAPS_WARN = 10.0
"""kappa in median label gaps: beyond, one outlying gap sets the vicinity."""
VICINITY_SHARE_FATAL = 0.25
"""Share of the label range that one vicinity covers."""


@dataclass(frozen=True)
class Check:
    """One verdict: `fatal` is only ever true where `ok` is false."""

    name: str
    value: float
    threshold: float
    ok: bool
    fatal: bool
    sentence: str

    def line(self, *, refusing: bool, here: bool) -> str:
        """The sentence with its mark. A fatal check is refused `here`, in the bank stage alone, or not at all, so that
        bank.refuse_worthless concerns no training.
        """
        refused = self.fatal and not self.ok and refusing
        mark = "ok" if self.ok else "REFUSED" if refused and here else "WARNING"
        return f"{mark}: {self.sentence}" + (" (the bank stage will refuse this)" if refused and not here else "")


def check_diversity(fake: float, real: float) -> Check:
    """Within-label distance of fakes over that of real images, both mean L1 in [-1, 1] pixels; refused under 0.5.

    Raises ValueError where the real images of a label are all equal.
    """
    if not real > 0:
        raise ValueError("data: the training images of each label are identical, so the GAN's diversity has no measure")
    share = fake / real
    ok = share >= DIVERSITY_LEAST
    said = f"two fakes of one label differ by {share:.2f} of what two real images do (at least {DIVERSITY_LEAST:g})"
    cure = "" if ok else "; the GAN ignores its noise: raise cgan.diversity_weight or cgan.num_steps"
    return Check("diversity", share, DIVERSITY_LEAST, ok, not ok, said + cure)


def check_ratio_zeros(zero_share: float) -> Check:
    """Share of fakes with a ratio of exactly zero; warned over 0.5, refused over 0.9."""
    ok, fatal = zero_share <= ZERO_SHARE_WARN, zero_share > ZERO_SHARE_FATAL
    threshold = ZERO_SHARE_FATAL if fatal else ZERO_SHARE_WARN
    said = f"{100 * zero_share:.1f} % of the fakes have a ratio of exactly zero (at most {100 * threshold:g} %)"
    cure = "" if ok else "; raise ratio.ratio_penalty, or lower ratio.num_steps or ratio.learning_rate"
    return Check("ratio_zeros", zero_share, threshold, ok, fatal, said + cure)


def check_ratio_mean(mean_fake: float) -> Check:
    """Mean ratio on fresh fakes, uncalibrated (1 in theory); warned outside [1/2, 2], refused outside [1/10, 10]."""
    off = max(mean_fake, 1.0 / mean_fake) if mean_fake > 0 else math.inf
    ok, fatal = off <= MEAN_RATIO_WARN, not off <= MEAN_RATIO_FATAL
    threshold = MEAN_RATIO_FATAL if fatal else MEAN_RATIO_WARN
    said = f"the mean ratio on fakes is {mean_fake:.3g} (1 in theory, within a factor of {threshold:g})"
    cure = "" if ok else "; raise ratio.ratio_penalty, or lower ratio.learning_rate"
    return Check("ratio_mean", mean_fake, threshold, ok, fatal, said + cure)


def check_ratio_overfit(mean_train_real: float, mean_val_real: float) -> Check:
    """Mean ratio on training images over that on validation images; warned over 1.5, refused over 5."""
    times = mean_train_real / mean_val_real if mean_val_real > 0 else math.inf
    ok, fatal = times <= OVERFIT_WARN, not times <= OVERFIT_FATAL
    threshold = OVERFIT_FATAL if fatal else OVERFIT_WARN
    said = (
        f"the mean ratio is {mean_train_real:.2f} on training and {mean_val_real:.2f} on validation images, "
        f"{times:.2f} times as much (at most {threshold:g})"
    )
    cure = "" if ok else "; the ratio knows the training images by heart: lower ratio.num_steps or raise ratio.dropout"
    return Check("ratio_overfit", times, threshold, ok, fatal, said + cure)


def check_ratio_informative(val_loss: float, flat_loss: float) -> Check:
    """Whether the ratio's validation loss is below that of a ratio of 1 everywhere; a warning only."""
    gain = flat_loss - val_loss
    ok = gain > 0
    word = "better" if ok else "worse"
    said = f"on validation the ratio loss is {abs(gain):.4f} {word} than that of a constant ratio"
    cure = "" if ok else "; subsampling is then close to chance: compare with arms without subsample"
    return Check("ratio_informative", gain, 0.0, ok, False, said + cure)


def check_kappa(kappa: float, largest_gap: float, median_gap: float, span: float) -> Check:
    """Width of CcGAN's vicinity, all in raw label units; warned over 10 median gaps, refused over 25 % of the range.

    The value is the share of the range, 2 kappa / span, where that is too large, else kappa / median gap.
    """
    share, gaps = 2 * kappa / span, kappa / median_gap
    cure = "; set cgan.vicinity.kappa, or lower cgan.vicinity.kappa_multiplier or cgan.vicinity.gap_quantile"
    if share > VICINITY_SHARE_FATAL:
        said = (
            f"kappa = {kappa:.3g}: one vicinity covers {100 * share:.0f} % of the label range "
            f"(at most {100 * VICINITY_SHARE_FATAL:g} %; the largest label gap is {largest_gap:.3g})"
        )
        return Check("kappa", share, VICINITY_SHARE_FATAL, False, True, said + cure)
    ok = gaps <= KAPPA_GAPS_WARN
    said = (
        f"kappa = {kappa:.3g} is {gaps:.1f} median label gaps (at most {KAPPA_GAPS_WARN:g}; "
        f"the largest gap is {largest_gap:.3g})"
    )
    return Check("kappa", gaps, KAPPA_GAPS_WARN, ok, False, said + ("" if ok else cure))


def check_bound(num_dead_groups: int, num_groups: int) -> Check:
    """Label groups in which every burn-in ratio was zero, so that subsampling accepts nothing; any is refused."""
    ok = num_dead_groups == 0
    said = f"{num_dead_groups} of {num_groups} label groups have no fake with a ratio above zero (at most 0)"
    cure = "" if ok else "; lower ratio.num_steps, raise ratio.ratio_penalty, or use arms without subsample"
    return Check("bound", float(num_dead_groups), 0.0, ok, not ok, said + cure)


def check_setback(name: str, step: int, back_to: int, found: str, setting: str) -> Check:
    """A training that went back from `step` to an earlier one, as numbers were not finite; a warning. The value is the step."""
    said = f"the training of {name} had numbers that are not finite at step {step} ({found})"
    cure = f"it went on from step {back_to} at half the learning rate: lower {setting}"
    return Check(f"setback.{name.replace(' ', '_')}", float(step), 0.0, False, False, f"{said}; {cure}")


def check_collapse(kind: str, words: str, step: float, passed: float | None) -> Check:
    """A GAN that was seen to collapse at `step`, with what it means and asks for; no warning where it had passed by the end."""
    name = f"collapse.{kind}"
    if passed is not None:
        said = f"the GAN seemed to have collapsed at step {step:.0f}, and had recovered by step {passed:.0f}"
        return Check(name, step, 0.0, True, False, f"{said} ({words.partition('; ')[0]})")
    return Check(name, step, 0.0, False, False, f"the GAN seems to have collapsed since step {step:.0f}: {words}")
