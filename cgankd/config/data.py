"""The `data` section: where the images come from and how they are split."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from cgankd.config.settings import ConfigError, check_name, nearest, require

SOURCES = (
    "digits", "chairs", "image-folder", "csv", "cifar10", "cifar100", "tiny-imagenet", "imagenet100", "rc49", "utkface",
    "steering-angle", "hands", "hdf5",
)  # fmt: skip
"""The readers of cgankd.data.readers.sources by name; a test compares the two."""
DOWNLOADS = ("cifar10", "cifar100")
"""Sources that `data.download` can fetch."""
MADE_HERE = ("digits", "chairs", "hands")
"""Sources that read no files; their data.root is the code that makes them, for DVC to watch."""

LISTS = ("utkface", "steering-angle")
"""Public sets whose labels come file by file, each counted."""
GROUPED = ("image-folder", "csv", "utkface", "steering-angle")
"""Sources of image files whose splits are made here, so that `data.groups` can say which files belong together."""
FOLDER, COLUMN, PATTERN = "folder", "column:", "re:"
"""What `data.groups` may be, or begin with."""
ANSWERS = ("scalar", "circle")
"""What nets may answer with for scalar labels: values of data.label_answer."""
REST = "rest"
"""What `data.unlabelled` may be in place of a path."""
COLOUR = re.compile("#[0-9a-fA-F]{6}")
AUGMENTS = (
    *("none", "shift", "affine", "zoom", "hue", "colour", "cutout", "flip", "crop", "cutout_half", "randaugment"),
    "resized_crop",
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from, and how they are split."""

    task: Literal["class", "scalar"]
    """Kind of label: class = one of several classes; scalar = a number, such as an angle or an age."""
    source: str
    """Which reader: digits, chairs, image-folder, csv, cifar10, cifar100, tiny-imagenet, imagenet100, rc49, utkface,
    steering-angle, hands, hdf5; docs/data.md has the layout of each."""
    root: str
    """Folder or file the images come from; for the embedded sets (digits, chairs, hands) the code that makes them."""
    image_size: int
    """Height and width in pixels (a power of two from 16)."""
    channels: int
    """Colour channels of an image: 1 = grey, 3 = colour."""
    train_per_label: int | None
    """Training images for each class or distinct label; null = all that remain after validation and test."""
    num_train: int | None
    """Cap on training images in all, a seeded subset; null = no cap."""
    val_per_label: int | None
    """Validation images for each class; null = use num_val."""
    num_val: int | None
    """Validation images in all, spread evenly over the classes; null = use val_per_label."""
    test_share: float | None
    """Share of the images set aside for test; null where the source has a test part of its own (digits, chairs, test/)."""
    num_test: int | None
    """Cap on test images, a seeded subset; null = no cap."""
    label_min: float | None
    """Scalar labels: lower end of the range in raw units; null = smallest training label (utkface: 1 year,
    steering-angle: -80 degrees; images outside the range are left out there)."""
    label_max: float | None
    """Scalar labels: upper end of the range in raw units; null = largest training label (utkface: 60 years,
    steering-angle: 80 degrees)."""
    label_period: float | None = None
    """Scalar labels that go round, such as angles, headings or hours: the length of a turn in raw units (360, 24); labels
    outside the turn that begins at data.label_min are brought back to it. null = a line."""
    label_answer: Literal["scalar", "circle"] | None = field(default=None, metadata={"left_out": True})
    """What nets answer with where data.label_period is set: circle = two numbers, the cosine and sine of the label's angle;
    scalar = one, the label, which has to jump where a turn ends. null = circle with a period, scalar without."""
    path_column: str | None = field(default=None, metadata={"left_out": True})
    """csv: name (or number, from 1) of the column with the images; null = found."""
    label_column: str | None = field(default=None, metadata={"left_out": True})
    """csv: name (or number, from 1) of the column with the labels; null = found."""
    fit: Literal["refuse", "crop", "pad", "stretch"] = field(default="refuse", metadata={"left_out": True})
    """What becomes of an image file that is not square: refuse it; crop = its middle; pad = all of it, on a square of
    data.pad_colour; stretch = all of it, out of proportion. Kept with the model: `predict` does the same."""
    enlarge: bool = field(default=False, metadata={"left_out": True})
    """Enlarge image files that are smaller than data.image_size; false = refuse them."""
    pad_colour: str | None = field(default=None, metadata={"left_out": True})
    """Colour around a padded image, as "#rrggbb"; null = the mean of the image's edge."""
    background: str = field(default="#ffffff", metadata={"left_out": True})
    """Colour, as "#rrggbb", on which image files with transparent parts are laid."""
    pixel_range: tuple[float, ...] | None = field(default=None, metadata={"left_out": True})
    """Grey image files of more than 8 bits a channel: the two values that become black and white, the same for all of
    them; null = 0 and 65535 for 16 bits, and other kinds are refused. Files of 8 bits are taken as they are."""
    skip_broken: bool = field(default=False, metadata={"left_out": True})
    """Folders and lists of images: leave out files that cannot be read or used, and lines without a label or without their
    image, and say which, in place of stopping."""
    val_share: float | None = field(default=None, metadata={"left_out": True})
    """Class labels: share of each class that validates, of what test leaves, in place of val_per_label and num_val; null = use
    those."""
    val_floor: int = field(default=5, metadata={"left_out": True})
    """data.val_share only: at least so many validation images of each class, but no more than a third of what test leaves."""
    imbalance: float | None = field(default=None, metadata={"left_out": True})
    """Class labels: how many times more training images the first class has than the last; from data.train_per_label of the
    first they fall geometrically in the order of the classes. Validation and test stay. null = each class alike."""
    replicate_to: int | None = field(default=None, metadata={"left_out": True})
    """Repeat the training images of each class or distinct label that has fewer, in their order, until it has so many (the
    first version of the paper: 200 for UTKFace). Validation and test stay; all stages train on the repeats. null = none."""
    groups: str | None = field(default=None, metadata={"left_out": True})
    """Image files that belong together, such as the frames of one film or the slices of one patient, and are never divided
    between training, validation and test: folder = those of one sub-folder (within the class folder); NAME or column:NAME =
    those with one entry in this column of the list (or number, from 1); re:PATTERN = those of which the brackets of a regular
    expression, searched for in the path below data.root, match the same. null = each image by itself; docs/data.md."""
    unlabelled: str | None = field(default=None, metadata={"left_out": True})
    """Folder of images without labels, of any depth, or HDF5 file with `images`, for the arms with `unlabelled`; its files are
    read by the rules of all others. rest = the training images that train_per_label, num_train and imbalance leave out, their
    labels hidden. Copies of labelled images are left out. null = none; docs/howto/unlabelled.md."""
    num_unlabelled: int | None = field(default=None, metadata={"left_out": True})
    """Cap on unlabelled images, a seeded subset; null = no cap."""
    download: bool = False
    """Fetch the official archive into data.root where that has no images (cifar10, cifar100)."""
    memory_budget_gb: float | None = None
    """Memory in GB for images at rest, all processes of a stage together; what does not fit is read from its file when
    needed. null = a quarter of this machine's memory. Changes no number."""

    def __post_init__(self) -> None:
        check_name(self.source, SOURCES, "data.source")
        size = self.image_size
        require(16 <= size <= 256 and size & (size - 1) == 0, "data.image_size", "a power of two from 16 to 256", size)
        require(bool(self.root.strip()), "data.root", "the path of a folder or file", self.root)
        require(self.channels in (1, 3), "data.channels", "1 or 3", self.channels)
        for name in ("train_per_label", "num_train", "val_per_label", "num_val", "num_test", "num_unlabelled"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name}", "null or at least 1", value)
        own = self.unlabelled
        require(
            own is None or bool(own.strip()), "data.unlabelled", f"null, {REST} or the path of a folder or file", own
        )
        if own == REST:
            rule = "set where data.unlabelled is rest, or data.num_train is: else no training image is left"
            require((self.train_per_label or self.num_train) is not None, "data.train_per_label", rule, None)
        capped = self.num_unlabelled is None or own is not None
        require(capped, "data.num_unlabelled", "null where data.unlabelled is", self.num_unlabelled)
        self._check_validation()
        repeated = self.replicate_to
        require(repeated is None or repeated >= 2, "data.replicate_to", "null or at least 2", repeated)
        check_groups(self.groups, self.source)
        ratio = self.imbalance
        require(ratio is None or ratio >= 1, "data.imbalance", "null or at least 1", ratio)
        if ratio is not None:
            rule = "set where data.imbalance is, as the images of the first class"
            require(self.train_per_label is not None, "data.train_per_label", rule, None)
        budget = self.memory_budget_gb
        require(budget is None or budget >= 0, "data.memory_budget_gb", "null or zero or more", budget)
        share = self.test_share
        require(share is None or 0 < share < 1, "data.test_share", "null or between 0 and 1", share)
        if self.label_min is not None and self.label_max is not None:
            require(self.label_min < self.label_max, "data.label_min", "less than data.label_max", self.label_min)
        require(
            not self.download or self.source in DOWNLOADS,
            "data.download",
            f"false for data.source {self.source} (only {' and '.join(DOWNLOADS)} can be fetched)",
            self.download,
        )
        for name in ("path_column", "label_column"):
            value = getattr(self, name)
            require(value is None or self.source == "csv", f"data.{name}", f"null for data.source {self.source}", value)
        require(
            not self.skip_broken or self.source not in LISTS,
            "data.skip_broken",
            f"false for data.source {self.source}; take what is broken out of the list",
            self.skip_broken,
        )
        for name in ("pad_colour", "background"):
            colour = getattr(self, name)
            plain = (colour is None and name == "pad_colour") or COLOUR.fullmatch(str(colour)) is not None
            require(plain, f"data.{name}", 'a colour such as "#ffffff"', colour)
        ends = self.pixel_range
        rising = ends is None or (len(ends) == 2 and ends[0] < ends[1])
        require(rising, "data.pixel_range", "null or two numbers, the smaller one first", ends)
        period = self.label_period
        require(period is None or period > 0, "data.label_period", "null or positive", period)
        if period is not None and self.label_min is not None and self.label_max is not None:
            span = self.label_max - self.label_min
            require(
                span <= period * (1 + 1e-6),
                "data.label_period",
                f"at least data.label_max - label_min ({span:g})",
                period,
            )
        if period is None:
            require(
                self.label_answer != "circle", "data.label_answer", "null or scalar without data.label_period", "circle"
            )
        if self.task == "class":
            for name in ("label_min", "label_max", "label_period", "label_answer"):
                value = getattr(self, name)
                require(value is None, f"data.{name}", "null for class labels (data.task is class)", value)
        else:
            for name in ("val_share", "imbalance"):
                value = getattr(self, name)
                require(value is None, f"data.{name}", "null for scalar labels (data.task is scalar)", value)

    @property
    def answer(self) -> Literal["scalar", "circle"]:
        """What nets answer with: data.label_answer, or what null stands for."""
        return self.label_answer or ("scalar" if self.label_period is None else "circle")

    def _check_validation(self) -> None:
        """One of three settings says how many images validate."""
        share, each, total = self.val_share, self.val_per_label, self.num_val
        require(share is None or 0 < share < 1, "data.val_share", "null or between 0 and 1", share)
        require(self.val_floor >= 1, "data.val_floor", "at least 1", self.val_floor)
        if share is not None:
            for name in ("val_per_label", "num_val"):
                value = getattr(self, name)
                require(value is None, f"data.{name}", "null where data.val_share is set", value)
            return
        require(
            (each is None) != (total is None),
            "data.val_per_label",
            "set when data.num_val is null, and null otherwise",
            each,
        )


def check_groups(groups: str | None, source: str) -> None:
    """Raise ConfigError where a source has no groups of this kind, or a pattern cannot be read."""
    if groups is None:
        return
    known = f"null for data.source {source} (only {', '.join(GROUPED)} have files that can be grouped)"
    require(source in GROUPED, "data.groups", known, groups)
    plain = bool(groups.removeprefix(COLUMN).strip())
    require(plain, "data.groups", f"null, {FOLDER}, a column of the list or {PATTERN}PATTERN", groups)
    if groups.startswith(PATTERN):
        group_pattern(groups)
    elif groups != FOLDER and source != "csv":
        rule = f"{FOLDER} or {PATTERN}PATTERN for data.source {source}, which has no columns"
        require("(" in groups and not groups.startswith(COLUMN), "data.groups", rule, groups)
        group_pattern(groups)


def group_pattern(groups: str) -> re.Pattern[str]:
    """The regular expression in `data.groups`. Raises ConfigError where it is none, or has no brackets."""
    text = groups.removeprefix(PATTERN)
    try:
        pattern = re.compile(text)
    except re.error as problem:
        raise ConfigError(f"data.groups: {text!r} is no regular expression ({problem}); correct it") from None
    if not pattern.groups:
        raise ConfigError(
            f"data.groups: the pattern {text!r} has no brackets; put them around what names the group, as in {PATTERN}(film\\d+)"
        )
    return pattern


def check_augment(text: str, name: str) -> None:
    """Raise ConfigError unless the text is known augmentation names joined by "+"."""
    for part in text.split("+"):
        if part not in AUGMENTS:
            raise ConfigError(
                f"{name} must be made of {', '.join(AUGMENTS)} joined by '+', but has {part!r}{nearest(part, AUGMENTS)}"
            )
