"""What to do about a teacher that knows hardly more than the student."""

from __future__ import annotations

from cgankd.config.members import AUTO, overrides, sections_of
from pipelines.networks.weights import installed
from pipelines.report.facts import Facts

INSTALL = "pip install 'cgankd[pretrained]' && "


def stronger_teacher(facts: Facts) -> tuple[str, str, str]:
    """What helps a weak teacher most among what was not tried yet: title, reason and command.

    Members that differ in kind err differently; trained weights know more than a few images tell; a net made for larger
    images wants them larger; more steps come last.
    """
    cfg, title = facts.cfg.teacher, "A better teacher first"
    if cfg.file is not None:
        return title, "It comes from teacher.file; null trains one.", "dvc exp run -S teacher.file=null"
    auto, first = cfg.members == AUTO, "" if installed() else INSTALL
    colour = facts.cfg.data.channels == 3
    sections = sections_of(cfg, overrides(cfg.members)) if cfg.members is not None and not auto else [cfg]
    pretrained = [section for section in sections if section.starts_from is not None]
    if cfg.members is None:
        if colour and not pretrained:
            why = "A fresh and a pretrained net err differently, and their mean is often better than either."
            return title, why, f"{first}dvc exp run -S ++teacher.members=auto"
        why = "The mean of several trainings is steadier than one."
        return title, why, "dvc exp run -S ++teacher.members=3"
    if auto and colour and first:
        why = "teacher.members is auto, but the packages of a pretrained member are not installed."
        return title, why, f"{first}dvc repro -s -f teacher && dvc repro"
    if not (pretrained or auto) and colour:
        why = "None of its members is pretrained; one that is errs differently."
        return title, why, f"{first}dvc exp run -S ++teacher.members=auto"
    if any(section.input_size is None for section in pretrained):
        size = 2 * facts.cfg.data.image_size
        why = f"Its weights were trained on larger images than {facts.cfg.data.image_size} px."
        return title, why, f"dvc exp run -S ++teacher.input_size={size}"
    return title, "", f"dvc exp run -S teacher.num_steps={2 * cfg.num_steps}"
