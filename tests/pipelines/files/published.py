"""What the experiments of arXiv 2104.03164 are set to, by setting.

`cifar100`, `imagenet100`, `steering-angle` and `utkface` are of its published version, the others of its first; where
the text is silent, a figure is that of the authors' scripts of the same version. The presets are held against these.
"""

from __future__ import annotations

from typing import Any

Figures = dict[str, Any]

HALF, LATE = (150 / 350, 250 / 350), (150 / 240, 180 / 240, 210 / 240)
"""Where a rate falls to a tenth: after these shares of the steps."""
SLOW = {"feature_schedule": "multistep", "feature_weight_decay": 1e-4, "label_weight": 1.0}
STEM = SLOW | {"reconstruct_weight": 0.0, "feature_optimizer": "sgd", "feature_learning_rate": 0.1, "flip": True}
NEW_STEM = {"extractor": "resnet34", "extractor_style": "published"}
AUTO = SLOW | {"reconstruct_weight": 1.0, "l1_weight": 0.001, "feature_learning_rate": 0.01, "scalar_loss": "squared"}
AUTO |= {"targets": "distinct"}
NEW_AUTO = {"extractor": "autoencoder", "feature_optimizer": "sgd", "redraw": "latent", "vicinity_drop": None}
FIRST_AUTO = {"extractor": "autoencoder-v1", "feature_optimizer": "adam", "feature_beta1": 0.5, "vicinity_drop": 0.0}
RATIO = {"learning_rate": 1e-4, "beta1": 0.5, "beta2": 0.999, "dropout": 0.5, "schedule": "multistep"}
WIDE, NARROW = (2048, 1024, 512, 256, 128), (1024, 512, 256, 128, 64)
BOUND = {"bound": "running", "bound_quantile": 1.0, "subsample": True, "filter": True, "filter_strict": True}
KD = {"distiller": "kd", "teacher_view": "augmented"}
DIFFAUGMENT = "color,translation,cutout"


def under(section: str, *parts: Figures) -> Figures:
    """Figures with the section's name before each."""
    return {f"{section}.{key}": value for part in parts for key, value in part.items()}


def predictors(rate: float, decay: float, augment: str) -> Figures:
    """What the net that filters and the students share."""
    same = {"optimizer": "sgd", "schedule": "multistep", "weight_decay": decay}
    return under("teacher", same) | under("student", same, {"learning_rate": rate}) | {"student.augment": augment}


BIGGAN = {"width": 64, "d_steps": 4, "batch_size": 512, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.0, "beta2": 0.999}
BIGGAN |= {"ema": 0.9999, "ema_start": 1000, "augment": "flip", "diffaugment": DIFFAUGMENT, "arch": "biggan"}
BIGGAN |= {"z_dim": 128, "embed_dim": 128, "init": "n02", "shared_embed": False, "attention": None}
BIGGAN |= {"embed_std": 0.0884}  # first gains with an sd of 0.02
BIGGAN |= {"ema_ramp": False, "spectral_gains": False}
BIGGAN_128 = {"width": 128, "d_steps": 1, "batch_size": 1024, "accumulate": 8, "lr_g": 1e-4, "lr_d": 4e-4}
BIGGAN_128 |= {"beta1": 0.0, "beta2": 0.999, "ema": 0.9999, "ema_start": 20_000, "num_steps": 96_000}
BIGGAN_128 |= {
    "embed_std": 1.0,
    "arch": "biggan-deep",
    "ema_ramp": False,
    "spectral_gains": True,
    "z_dim": 128,
    "embed_dim": 128,
}
BIGGAN_128 |= {"augment": "flip", "diffaugment": DIFFAUGMENT, "attention": 64, "shared_embed": True, "init": "ortho"}
CCGAN = {"width": 64, "z_dim": 256, "embed_dim": 128, "lr_g": 1e-4, "lr_d": 1e-4, "beta1": 0.5, "beta2": 0.999}
CCGAN |= {"ema": 0.0, "diffaugment": DIFFAUGMENT, "vicinity.kind": "soft", "vicinity.draw": "uniform"}
CCGAN |= {"vicinity.gap_quantile": 1.0, "label_input.noise": 0.2, "label_input.batch_size": 256, "vicinity.ends": "cut"}
CCGAN |= {"targets": "distinct", "d_style": "flat", "init": "xavier", "loss": "hinge", "label_input.net": "resnet34"}
CCGAN |= {"label_input.optimizer": "sgd", "label_input.learning_rate": 0.01, "label_input.weight_decay": 1e-4}
CCGAN |= {"label_input.schedule": "multistep", "label_input.scalar_loss": "squared", "label_input.spread": False}
CCGAN |= {"label_input.image_milestones": (0.3, 0.6), "label_input.label_milestones": (0.3, 0.5, 0.7)}
SQUARED = {"teacher.scalar_loss": "squared", "student.scalar_loss": "squared", "bank.bound_scope": "label"}

NEW_CLASSES = (
    predictors(0.01, 5e-4, "crop+flip")
    | under("student", KD, {"protocol": "finetune", "base_learning_rate": 0.05, "temperature": 4.0, "soft_weight": 0.9})
    | under(
        "ratio", STEM, NEW_STEM, RATIO, {"hidden": WIDE, "batch_size": 256, "ratio_penalty": 0.01, "weight_decay": 1e-4}
    )
    | under("bank", BOUND, {"num_fakes": 100_000, "rho": 0.9, "filter_scope": "label", "replace": False})
    | {"teacher.learning_rate": 0.05, "ratio.feature_batch_size": 256}
)
NEW_SCALARS = (
    SQUARED
    | predictors(0.01, 5e-4, "none")
    | under("student", {"protocol": "finetune", "base_learning_rate": 0.01, "batch_size": 128})
    | under(
        "ratio",
        AUTO,
        NEW_AUTO,
        RATIO,
        {"hidden": NARROW, "batch_size": 256, "ratio_penalty": 0.01, "weight_decay": 1e-4},
    )
    | under("bank", BOUND, {"rho": 0.7, "filter_scope": "global", "replace": True, "batch_size": 500})
    | under("cgan", CCGAN, {"arch": "sagan", "num_steps": 20_000, "batch_size": 512})
    | {"teacher.learning_rate": 0.01, "teacher.batch_size": 128, "ratio.feature_batch_size": 128, "data.image_size": 64}
)
FIRST_CLASSES = (
    predictors(0.1, 1e-4, "crop+flip")
    | under("student", KD, {"protocol": "scratch", "temperature": 5.0, "soft_weight": 0.5, "batch_size": 128})
    | under("ratio", STEM, RATIO, {"hidden": WIDE, "batch_size": 512, "ratio_penalty": 0.001, "weight_decay": 1e-4})
    | under("ratio", {"feature_batch_size": 128, "feature_augment": "crop+flip", "extractor": "densenet121"})
    | under("bank", BOUND, {"num_fakes": 100_000, "filter_scope": "global", "replace": True, "burn_in": 50_000})
    | {"teacher.net": "densenet121", "teacher.learning_rate": 0.1, "teacher.batch_size": 128}
    | {"student.distiller_options": {"reduction": "batch_and_classes"}, "cgan.ema_ramp": False}
)
FIRST_SCALARS = (
    SQUARED
    | predictors(0.01, 1e-4, "none")
    | under("student", {"protocol": "scratch", "batch_size": 128})
    | under(
        "ratio",
        AUTO,
        FIRST_AUTO,
        RATIO,
        {"hidden": WIDE, "batch_size": 256, "ratio_penalty": 0.001, "weight_decay": 0.0},
    )
    | under("bank", BOUND, {"filter_scope": "global", "replace": True, "batch_size": 1000})
    | under("cgan", CCGAN)
    | {
        "teacher.net": "vgg16",
        "teacher.learning_rate": 0.01,
        "teacher.batch_size": 128,
        "ratio.feature_batch_size": 128,
    }
    | {"cgan.vicinity.kappa_multiplier": 2.0, "data.image_size": 64}
)
CIFAR10 = FIRST_CLASSES | under("cgan", BIGGAN) | {"data.image_size": 32, "bank.batch_size": 1000}
CIFAR10 |= {"student.net": "cifar10:vgg11"}
RC49 = FIRST_SCALARS | under("cgan", {"arch": "sngan", "num_steps": 30_000, "batch_size": 256, "d_steps": 1})
RC49 |= {"cgan.spectral_g": False, "cgan.augment": "none", "bank.num_fakes": 50_000, "bank.burn_in": 200}
RC49 |= {"teacher.net": "rc49:vgg16", "student.net": "rc49:shufflenetv2", "cgan.label_input.label_steps": 1000}
RC49 |= {"ratio.flip": False, "data.label_min": 0.0, "data.label_max": 90.0, "ratio.feature_augment": "none"}
FACES = {"data.label_min": 1.0, "data.label_max": 60.0, "bank.rho": 0.7, "bank.num_conditions": 60, "cgan.d_steps": 4}
FACES |= {"teacher.augment": "flip", "student.augment": "flip", "cgan.augment": "flip", "ratio.feature_augment": "flip"}
FACES |= {"cgan.vicinity.kappa_multiplier": 2.0, "cgan.spectral_gains": False, "cgan.label_input.augment": "flip"}
FACES |= {"ratio.flip": True, "cgan.label_input.label_steps": 500}

FIGURES: dict[str, Figures] = {
    "cifar100": NEW_CLASSES
    | under("cgan", BIGGAN, {"num_steps": 38_000})
    | under("bank", {"burn_in": 5000, "batch_size": 600})
    | {
        "student.batch_size": 128,
        "teacher.net": "resnet32x4",
        "teacher.batch_size": 64,
        "student.base_batch_size": 64,
        "data.image_size": 32,
    }
    | {"teacher.augment": "crop+flip", "ratio.feature_augment": "crop+flip"},
    "imagenet100": NEW_CLASSES
    | under("cgan", BIGGAN_128)
    | under("bank", {"burn_in": 1000, "batch_size": 500})
    | {"student.batch_size": 256, "teacher.batch_size": 128, "data.image_size": 128, "ratio.feature_augment": "flip"}
    | {"student.base_batch_size": 128, "teacher.net": "imagenet100:densenet161", "student.net": "imagenet100:resnet8x4"}
    | {"teacher.augment": "resized_crop+flip", "student.augment": "resized_crop+flip"},
    "steering-angle": NEW_SCALARS
    | under("bank", {"num_fakes": 50_000, "burn_in": 500, "num_conditions": 2000})
    | {"data.label_min": -88.13, "data.label_max": 97.92, "cgan.d_steps": 2, "cgan.vicinity.kappa_multiplier": 5.0}
    | {"teacher.net": "steering-angle:vgg19", "student.net": "steering-angle:shufflenetv1", "ratio.flip": False}
    | {"cgan.augment": "none", "cgan.spectral_gains": False, "ratio.feature_augment": "none"},
    "utkface": NEW_SCALARS
    | FACES
    | {"bank.num_fakes": 60_000, "bank.burn_in": 100, "teacher.net": "utkface:vgg11"}
    | {"student.net": "utkface:shufflenetv1"},
    "cifar10-10k": CIFAR10 | {"bank.rho": 0.7, "cgan.num_steps": 24_000, "cgan.diffaugment": DIFFAUGMENT},
    "cifar10-20k": CIFAR10 | {"bank.rho": 0.6, "cgan.num_steps": 18_000},
    "cifar10-50k": CIFAR10 | {"bank.rho": 0.9, "cgan.num_steps": 48_000, "cgan.diffaugment": ""},
    "tiny-imagenet": FIRST_CLASSES
    | under("cgan", {"arch": "biggan", "z_dim": 120, "attention": 32, "shared_embed": True})
    | {"data.image_size": 64, "bank.batch_size": 3000, "bank.rho": 0.5}
    | {"teacher.net": "tiny-imagenet:densenet121", "student.net": "tiny-imagenet:vgg11"},
    "rc49-5": RC49 | {"data.train_per_label": 5, "bank.rho": 0.9},
    "rc49-15": RC49 | {"data.train_per_label": 15, "bank.rho": 0.8},
    "rc49-25": RC49 | {"data.train_per_label": 25, "bank.rho": 0.5},
    "utkface-v1": FIRST_SCALARS
    | FACES
    | under("cgan", {"arch": "sagan", "num_steps": 40_000, "batch_size": 512})
    | {"bank.num_fakes": 80_000, "bank.burn_in": 5000, "data.replicate_to": 200}
    | {"teacher.net": "utkface-v1:vgg16", "student.net": "utkface-v1:shufflenetv2"},
}
"""Values, by preset and setting."""

Epochs = dict[str, tuple[int, int, int]]


def first(reals: int, fakes: int, ratio_batch: int, features: int) -> Epochs:
    """Of an experiment of the first version: students start from nothing; `features` are the extractor's epochs."""
    student = (350, reals + fakes, 128)
    fits = {"teacher.num_steps": (350, reals, 128), "student.num_steps": student, "student.base_steps": student}
    return fits | {"ratio.num_steps": (350, reals, ratio_batch), "ratio.feature_steps": (features, reals, 128)}


def classes(reals: int, teacher_batch: int, student_batch: int) -> Epochs:
    """Of an experiment of the published version with classes."""
    teacher, student = (240, reals, teacher_batch), (240, reals + 100_000, student_batch)
    ratio = {"ratio.num_steps": (200, reals, 256), "ratio.feature_steps": (350, reals, 256)}
    return ratio | {"teacher.num_steps": teacher, "student.base_steps": teacher, "student.num_steps": student}


def scalars(reals: int, fakes: int, epochs: int) -> Epochs:
    """Of one with numbers; `epochs` are those of a student that starts from one of the real images."""
    ratio = {"ratio.num_steps": (200, reals, 256), "ratio.feature_steps": (200, reals, 128)}
    base = {"teacher.num_steps": (350, reals, 128), "student.base_steps": (350, reals, 128)}
    label_input = {"cgan.label_input.image_steps": (200, reals, 256)}
    return ratio | base | label_input | {"student.num_steps": (epochs, reals + fakes, 128)}


EPOCHS: dict[str, Epochs] = {
    "cifar100": classes(49_000, 64, 128),
    "imagenet100": classes(125_000, 128, 256),
    "steering-angle": scalars(9000, 50_000, 350),
    "utkface": scalars(14_000, 60_000, 240),
    "cifar10-10k": first(10_000, 100_000, 512, 350),
    "cifar10-20k": first(20_000, 100_000, 512, 350),
    "cifar10-50k": first(49_000, 100_000, 512, 350),
    "tiny-imagenet": first(98_000, 100_000, 512, 350),
    "rc49-5": first(450 * 5, 50_000, 256, 200),
    "rc49-15": first(450 * 15, 50_000, 256, 200),
    "rc49-25": first(450 * 25, 50_000, 256, 200),
    "utkface-v1": first(14_000, 80_000, 256, 200),
}
"""Epochs, images in an epoch and batch size, from which a number of steps follows, by preset and setting."""

Shares = tuple[float, ...]


def drops(student: Shares, real: Shares, ratio: Shares, features: Shares) -> dict[str, Shares]:
    """The same of a whole experiment; `real` is for the teacher and the students that others start from."""
    fits = {"student.milestones": student, "student.base.milestones": real, "teacher.milestones": real}
    return fits | {"ratio.milestones": ratio, "ratio.feature_milestones": features}


NEW, FIFTIES, LONG = (80 / 200, 150 / 200), (50 / 200, 100 / 200, 150 / 200), (100 / 350, 200 / 350)
DROPS: dict[str, dict[str, Shares]] = {
    "cifar100": drops(LATE, LATE, NEW, HALF),
    "imagenet100": drops(LATE, LATE, NEW, HALF),
    "steering-angle": drops(HALF, HALF, NEW, FIFTIES),
    "utkface": drops(LATE, HALF, NEW, FIFTIES),
    **dict.fromkeys(("cifar10-10k", "cifar10-20k", "cifar10-50k", "tiny-imagenet"), drops(HALF, HALF, HALF, HALF)),
    **dict.fromkeys(("rc49-5", "rc49-15", "rc49-25", "utkface-v1"), drops(HALF, HALF, LONG, FIFTIES)),
}
"""Shares of the steps after which a rate falls to a tenth, by preset and setting."""
