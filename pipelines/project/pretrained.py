"""A teacher that starts from trained weights, proposed where they are at hand and the images are what they were trained on."""

from __future__ import annotations

from pipelines.networks.weights import pretrained_teacher


def proposal(channels: int) -> list[str]:
    """A line on the pretrained teacher that these images could have; none for grey ones or without the packages."""
    settings = pretrained_teacher() if channels == 3 else None
    if settings is None:
        return []
    shown = ", ".join(f"{name}: {'null' if value is None else value}" for name, value in settings.items())
    return [
        f"a pretrained teacher is at hand, which on photographs mostly errs less: write teacher: {{{shown}}} over the lines of"
        " these names in params.yaml"
    ]
