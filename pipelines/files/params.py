"""params.yaml: read it with settings laid over it, edit it in place, copy presets. With yaml_bounds all that knows YAML."""

from __future__ import annotations

import difflib
import importlib.resources
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError

from cgankd.config import BESIDE, Config, ConfigError, config_from_dict, to_dict
from cgankd.config.data import MADE_HERE
from cgankd.config.settings import LONGEST_VALUE, in_words, shortened
from cgankd.data.regular import read_bytes, read_text
from pipelines.files.distillers import check_distillers
from pipelines.files.layout import SECTIONS, within
from pipelines.files.writing import file_meant, replacing
from pipelines.files.yaml_bounds import MAX_YAML, bounded

SHOWN = 4
"""Settings that one sentence names."""


def parse(text: str, name: str) -> Any:
    """YAML 1.2 text to plain objects; `name` stands for the file. Raises ConfigError with the line of a mistake."""
    with telling(name):
        return bounded("safe", text, name).load(text)


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Turn what goes wrong while YAML is read into a ConfigError with the line of the mistake."""
    try:
        yield
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{where}: {shortened(problem, LONGEST_VALUE)}") from error
    except ConfigError:
        raise
    except Exception as error:  # the reader meets odd text with many kinds of its own; each means the same here
        problem = shortened(" ".join(str(error).split()) or type(error).__name__, LONGEST_VALUE)
        raise ConfigError(f"{name} is no YAML that can be read ({problem}); correct it") from error


def read_params(path: Path) -> dict[str, Any]:
    """The nested dict of a params file. Raises ConfigError when it is missing, unreadable or no mapping."""
    try:
        text = read_text(path, MAX_YAML)
    except FileNotFoundError:
        raise ConfigError(
            f"{path.name} is missing from {path.parent.resolve()}; `cgankd use PRESET` writes one"
            f" (presets: {', '.join(preset_names())})"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    values = parse(text, path.name)
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name} must be a mapping of sections, but is {in_words(values)}")
    return values


def lay_over(values: dict[str, Any], override: str) -> None:
    """Apply one "bank.rho=0.8" to a nested dict in place; the right side is YAML. Raises ConfigError."""
    dotted, sign, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not sign or not all(keys):
        raise ConfigError(f"a setting must look like bank.rho=0.8, but is {in_words(override)}")
    keys = whole_names(values, keys)
    node = values
    for depth, key in enumerate(keys[:-1], start=1):
        below = node.setdefault(key, {})
        if below is None:
            below = node[key] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{'.'.join(keys[:depth])} is a single value, so {dotted.strip()} cannot be set")
        node = below
    node[keys[-1]] = parse(text, f"the value of {dotted.strip()}")


def whole_names(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The steps from section to setting, where names with dots in them, as those of knobs, are one step.

    Raises ConfigError on a knob that search.space does not have: where its name ends could only be guessed.
    """
    steps: list[str] = []
    node: Any = values
    left = list(keys)
    while left:
        known = node if isinstance(node, Mapping) else {}
        taken = next((n for n in range(len(left), 1, -1) if ".".join(left[:n]) in known), 1)
        if steps == ["search", "space"] and taken == 1:
            raise ConfigError(
                f"{'.'.join(keys)} cannot be set by --set, as search.space of params.yaml has no such knob (it has:"
                f" {', '.join(known) or 'none'}); write it into params.yaml"
            )
        steps.append(".".join(left[:taken]))
        node, left = known.get(steps[-1]), left[taken:]
    return steps


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested dict of a params file with settings laid over it. Raises ConfigError."""
    values = read_params(path)
    for override in overrides:
        lay_over(values, override)
    return values


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """What stages read of a params file, checked, with settings laid over it. Raises ConfigError."""
    cfg = config_from_dict(read_values(path, overrides))
    check_distillers(cfg)
    return cfg


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names; lists stay whole and an empty mapping is kept as a leaf."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def settings_of(cfg: Config, stage: str) -> dict[str, Any]:
    """Dotted name -> value of every setting that a stage reads."""
    return {key: value for key, value in flatten(to_dict(cfg)).items() if within(key, SECTIONS[stage])}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping that `flatten` made one level of; a name that is both a value and a section keeps the section."""
    top: dict[str, Any] = {}
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        node = top
        for key in path:
            below = node.get(key)
            if not isinstance(below, dict):
                below = node[key] = {}
            node = below
        if not isinstance(node.get(last), dict):
            node[last] = value
    return top


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings with every default written out, whatever of them a file or a tracked run holds.

    Settings that the present code cannot read, as of an older run, stay as they are.
    """
    try:
        beside = {name: values[name] for name in BESIDE if name in values}  # no default of them is known here
        return flatten(to_dict(config_from_dict(values)) | beside)
    except ConfigError:
        return flatten(values)


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = importlib.resources.files("pipelines") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """A preset as it stands in the package. Raises ConfigError naming the nearest preset."""
    names = preset_names()
    if name not in names:
        match = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {match[0]}?" if match else ""
        raise ConfigError(f"there is no preset {name!r}{hint} (presets: {', '.join(names)})")
    return (importlib.resources.files("pipelines") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def at_root(preset: str, root: str | None) -> dict[str, str]:
    """What `--root` changes in a preset. Raises ConfigError where there is no such preset, or it reads no files."""
    text = preset_text(preset)
    if root is None:
        return {}
    source = parse(text, preset)["data"]["source"]
    if source in MADE_HERE:
        raise ConfigError(
            f"--root does not go with the preset {preset}, as data.source {source} reads no files; leave it out"
        )
    if not root.strip():
        raise ConfigError("--root is empty; name the folder or file with the images")
    return {"data.root": root}


def write_preset(name: str, path: Path, values: Mapping[str, Any] | None = None) -> Path | None:
    """Put a preset, with `values` at dotted names, in place of a params file.

    Returns where the former one was kept, None when nothing was lost.
    """
    text = changed(preset_text(name), f"preset {name}", values) if values else preset_text(name)
    if not path.exists():
        write_text(path, text)
        return None
    before = read_bytes(path, MAX_YAML)
    if before == text.encode():
        return None
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    with replacing(backup, len(before)) as temporary:
        temporary.write_bytes(before)
    write_text(file_meant(path), text)
    return backup


def set_value(path: Path, dotted: str, value: Any) -> None:
    """Change one setting of a params file and leave its comments and order alone. Raises ConfigError."""
    set_values(path, {dotted: value})


def set_values(path: Path, values: Mapping[str, Any]) -> None:
    """Change settings of a params file, all or none, and leave its comments and order alone. Raises ConfigError.

    A switch of an arm may be absent from the file, where it is off, and so may a whole arm; any other setting has to
    be there.
    """
    read_params(path)
    if values:
        write_text(file_meant(path), changed(read_text(path, MAX_YAML), path.name, values))


def changed(text: str, name: str, values: Mapping[str, Any]) -> str:
    """The text of a params file with settings changed as by `set_values`; `name` stands for the file."""
    yaml = bounded("rt", text, name)
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    with telling(name):
        document = yaml.load(text)
    for dotted, value in values.items():
        keys = dotted.split(".")
        node = document
        for depth, key in enumerate(keys):
            optional = depth in (2, 3) and depth == len(keys) - 1 and keys[:2] == ["student", "arms"]
            if not isinstance(node, Mapping) or (key not in node and not optional):
                raise ConfigError(f"{'.'.join(keys[: depth + 1])} is not in {name}")
            if depth < len(keys) - 1:
                node = node[key]
        node[keys[-1]] = in_one_line(value) if isinstance(value, Mapping) else value
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def in_one_line(value: Mapping[str, Any]) -> CommentedMap:
    """A mapping as {key: value} in a file, as the arms of the presets are."""
    found = CommentedMap(value)
    found.fa.set_flow_style()
    return found


def write_text(path: Path, text: str, *, named: bool = False) -> None:
    """Write a text file so that it is never seen half written; `named` is one that the user named."""
    with replacing(path, named=named) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rewritten(text: str, change: Callable[[Any], None]) -> str:
    """A YAML text after `change` was applied to its document in place; comments and order stay."""
    yaml = bounded("rt", text, "the text")
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    with telling("the text"):
        document = yaml.load(text)
    change(document)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def changed_meanwhile(before: Mapping[str, Any], read: Callable[[], Mapping[str, Any]], command: str) -> str | None:
    """A sentence where params.yaml, read again, no longer says what a command began with; None where it does.

    Both are dotted name -> value; `read` may raise ConfigError.
    """
    try:
        now = read()
    except ConfigError as error:
        other = f"it cannot be read ({error})"
    else:
        keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if not keys:
            return None
        other = "; ".join(f"{key} {before.get(key)} is now {now.get(key)}" for key in keys[:SHOWN])
    return f"params.yaml changed while `cgankd {command}` ran: {other}"
