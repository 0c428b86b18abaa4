"""The whole-int8 file as C: a header with its bytes, constants and the reading of its outputs, and a program that asks it.

The header is C11 and C++11 alike and needs nothing of TensorFlow Lite Micro; the program does.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.labels.circle import is_whole
from cgankd.types import DatasetInfo
from pipelines.device.forms import Record, read_record
from pipelines.device.quiet import need

BYTES_A_LINE = 20
ARENA_STEP = 16
"""An arena is a whole number of these bytes."""
INT8 = 9
"""Number of the type in the schema of LiteRT."""
IRREGULAR = {"BATCH_MATMUL": "BatchMatMul", "CUMSUM": "CumSum", "PADV2": "PadV2", "REVERSE_V2": "ReverseV2"}
"""Operators whose method of the resolver is not their name in capitals and small letters."""


@dataclass(frozen=True)
class Tensor8:
    """An int8 tensor: its shape, and the scale and zero point by which a level q is the number scale (q - zero)."""

    shape: tuple[int, ...]
    scale: float
    zero: int


def write_c(tflite: Path, out: Path, *, arena: int, operators: Sequence[str], name: str = "student") -> list[Path]:
    """Write NAME.h and NAME_example.cc for a whole-int8 file of `cgankd export` to the folder `out`; returns the two.

    `arena` in bytes and `operators` are as TensorFlow Lite Micro's interpreter has measured and met them (`micro_of`).
    Raises ConfigError where the file is damaged or none with int8 at both ends.
    """
    if arena < 1 or not operators:
        raise ConfigError(
            f"{tflite} was not run by the interpreter for microcontrollers, so no header is written for it"
        )
    record, data = read_record(tflite)
    given, gives = _ends(tflite, data)
    word = c_name(name)
    head, program = c_names(name)
    texts = {
        head: header(word, data, record, given, gives, -(-arena // ARENA_STEP) * ARENA_STEP),
        program: example(word, operators, classes=bool(record.info.class_names)),
    }
    if bytes_of(texts[head]) != data:
        raise AssertionError("the header holds other bytes than the file")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".c-") as place:
        for file, text in texts.items():
            (Path(place) / file).write_text(text, encoding="ascii")
        for file in texts:
            (Path(place) / file).replace(out / file)
    return [out / file for file in texts]


def _ends(path: Path, data: bytes) -> tuple[Tensor8, Tensor8]:
    """Input and output of a file. Raises ConfigError where they are not one int8 tensor each, of one scale."""
    need("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0)).subgraphs[0]
    found = []
    for places in (graph.inputs, graph.outputs):
        tensor = graph.tensors[places[0]]
        rule = tensor.quantization
        scales = [] if rule is None or rule.scale is None else list(rule.scale)
        if len(places) != 1 or tensor.type != INT8 or len(scales) != 1:
            raise ConfigError(
                f"{path} is not int8 from its input to its output; name the whole-int8 file of `cgankd export`"
            )
        found.append(Tensor8(tuple(int(side) for side in tensor.shape), float(scales[0]), int(rule.zeroPoint[0])))
    return found[0], found[1]


def c_name(text: str) -> str:
    """A name as C takes it: ASCII letters, digits and strokes, with a letter first."""
    word = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    return word if re.match(r"[A-Za-z]", word) else f"model_{word}".rstrip("_")


def c_names(name: str = "student") -> tuple[str, str]:
    """Names of the header and of the program."""
    return f"{c_name(name)}.h", f"{c_name(name)}_example.cc"


def c_string(text: str) -> str:
    """A string literal of the UTF-8 bytes of a text; nothing in it ends the literal or makes a trigraph."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode("utf-8")) + '"'


def c_float(value: float) -> str:
    """A float constant, exact in single precision."""
    text = f"{value:.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


def bytes_of(text: str) -> bytes:
    """The bytes of the model in a header, read back."""
    begin = text.index("_model[] = {") + len("_model[] = {")
    return bytes(
        int(number) for number in text[begin : text.index("}", begin)].replace("\n", "").split(",") if number.strip()
    )


def header(word: str, data: bytes, record: Record, given: Tensor8, gives: Tensor8, arena: int) -> str:
    """The text of the header."""
    big, info = word.upper(), record.info
    _, height, width, channels = given.shape
    numbers = [str(byte) for byte in data]
    rows = [",".join(numbers[i : i + BYTES_A_LINE]) for i in range(0, len(numbers), BYTES_A_LINE)]
    lines = [
        "/* Made by `cgankd export --to c`. Pixels are bytes [height][width][channel], from the left top. */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "#include <math.h>",
        "#include <stdint.h>",
        "",
        f'#define {big}_SHA256 "{hashlib.sha256(data).hexdigest()}"',
        f"#define {big}_BYTES {len(data)}",
        "/* Measured by TensorFlow Lite Micro's interpreter on a 64-bit machine; a 32-bit board needs a little less. */",
        f"#define {big}_ARENA_BYTES {arena}",
        f"#define {big}_HEIGHT {height}",
        f"#define {big}_WIDTH {width}",
        f"#define {big}_CHANNELS {channels}",
        f"#define {big}_INPUT_BYTES {height * width * channels}",
        f"#define {big}_OUTPUTS {gives.shape[-1]}",
        "/* A level q stands for SCALE * (q - ZERO). */",
        f"#define {big}_INPUT_SCALE {c_float(given.scale)}",
        f"#define {big}_INPUT_ZERO ({given.zero})",
        f"#define {big}_OUTPUT_SCALE {c_float(gives.scale)}",
        f"#define {big}_OUTPUT_ZERO ({gives.zero})",
        *_region(big, record),
        "",
        "#ifdef __cplusplus",
        "alignas(16)",
        "#else",
        "_Alignas(16)",
        "#endif",
        f"static const unsigned char {word}_model[] = {{",
        ",\n".join(rows),
        "};",
        "",
        "/* What the model takes for a pixel of 0 to 255. */",
        f"static inline int8_t {word}_level(uint8_t pixel) {{",
        f"  const float level = (float)pixel / {big}_INPUT_SCALE + {big}_INPUT_ZERO;",
        "  return (int8_t)(level < -128.0f ? -128.0f : level > 127.0f ? 127.0f : floorf(level + 0.5f));",
        "}",
        "",
        "/* What a level that the model gives stands for. */",
        f"static inline float {word}_number(int8_t level) {{",
        f"  return {big}_OUTPUT_SCALE * (float)(level - {big}_OUTPUT_ZERO);",
        "}",
        "",
        *(_class_lines(word, info) if info.class_names else _scalar_lines(word, record)),
        "",
        f"#endif /* {big}_H */",
        "",
    ]
    return "\n".join(lines)


def _region(big: str, record: Record) -> list[str]:
    """The constants of a region, where there is one."""
    margin = record.margin
    if margin is None:
        return []
    what = "classes with a probability of at least 1 - MARGIN" if record.info.class_names else "label +- MARGIN"
    return [
        f"/* Region: {what}, by {margin.num} validation images. */",
        f"#define {big}_LEVEL {c_float(margin.level)}",
        f"#define {big}_MARGIN {c_float(margin.width)}",
    ]


def _class_lines(word: str, info: DatasetInfo) -> list[str]:
    names = ",\n".join(f"  {c_string(name)}" for name in info.class_names)
    return [
        "/* Names of the classes, in UTF-8. */",
        f"static const char *const {word}_labels[{word.upper()}_OUTPUTS] = {{",
        names,
        "};",
        "",
        f"/* The most probable class of the outputs; {word}_number gives its probability. */",
        f"static inline int {word}_class(const int8_t *out) {{",
        "  int best = 0;",
        f"  for (int i = 1; i < {word.upper()}_OUTPUTS; i++)",
        "    if (out[i] > out[best]) best = i;",
        "  return best;",
        "}",
    ]


def _scalar_lines(word: str, record: Record) -> list[str]:
    """The label of the outputs, as `ScalarAnswer` and `CircleAnswer` read it, or as the file has read it itself."""
    big, info = word.upper(), record.info
    low, high, period = info.label_min, info.label_max, info.label_period
    lines = [
        f"#define {big}_UNIT {c_string(info.label_unit)}",
        f"#define {big}_LABEL_MIN {c_float(low)}",
        f"#define {big}_LABEL_MAX {c_float(high)}",
        *([f"#define {big}_PERIOD {c_float(period)} /* labels go round */"] if period is not None else []),
        "",
        "/* The label that the outputs stand for, in its unit. */",
        f"static inline float {word}_label(const int8_t *out) {{",
    ]
    if record.signature.gives == "answer":
        lines.append(f"  float label = {word}_number(out[0]);")
    elif info.label_answer == "circle":
        turn = f"({big}_PERIOD / 6.28318531f)"
        lines.append(
            f"  float label = atan2f({word}_number(out[1]), {word}_number(out[0])) * {turn} + {big}_LABEL_MIN;"
        )
    else:
        lines.append(f"  float label = {word}_number(out[0]) * ({big}_LABEL_MAX - {big}_LABEL_MIN) + {big}_LABEL_MIN;")
    if is_whole(low, high, period):
        lines += [
            f"  label -= {big}_PERIOD * floorf((label - {big}_LABEL_MIN) / {big}_PERIOD);",
            f"  return label < {big}_LABEL_MAX ? label : {big}_LABEL_MIN;",
            "}",
        ]
        return lines
    if period is not None:
        middle = f"(({big}_LABEL_MIN + {big}_LABEL_MAX) / 2)"
        lines.append(f"  label -= {big}_PERIOD * floorf((label - {middle}) / {big}_PERIOD + 0.5f);")
    lines += [
        f"  if (label < {big}_LABEL_MIN) label = {big}_LABEL_MIN;",
        f"  return label > {big}_LABEL_MAX ? {big}_LABEL_MAX : label;",
        "}",
    ]
    return lines


def method_of(operator: str) -> str:
    """The method of the resolver that adds an operator: AddConv2D for CONV_2D."""
    parts = [part if part[0].isdigit() else part.capitalize() for part in operator.split("_")]
    return "Add" + IRREGULAR.get(operator, "".join(parts))


def example(word: str, operators: Sequence[str], *, classes: bool) -> str:
    """The text of a program of about forty lines that asks the model about an image."""
    big = word.upper()
    added = " ||\n      ".join(f"operators.{method_of(operator)}() != kTfLiteOk" for operator in operators)
    if classes:
        said = f'  const int best = {word}_class(out);\n  printf("%s %.4f\\n", {word}_labels[best], {word}_number(out[best]));'
    else:
        said = f'  printf("%g %s\\n", {word}_label(out), {big}_UNIT);'
    return f"""// Ask the model of {word}.h about an image, by TensorFlow Lite Micro.
#include <cstdint>
#include <cstdio>

#include "{word}.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{
alignas(16) uint8_t arena[{big}_ARENA_BYTES + 1024];  // other versions may need a little more than the measured one
tflite::MicroInterpreter* interpreter = nullptr;
}}  // namespace

// Once, before the first image. False where the arena is too small or the library lacks an operator.
bool {word}_begin() {{
  static tflite::MicroMutableOpResolver<{len(operators)}> operators;
  if ({added}) return false;
  static tflite::MicroInterpreter made(tflite::GetModel({word}_model), operators, arena, sizeof arena);
  interpreter = &made;
  return made.AllocateTensors() == kTfLiteOk;
}}

// Ask about {big}_INPUT_BYTES bytes, which are [height][width][channel].
bool {word}_ask(const uint8_t* pixels) {{
  int8_t* input = interpreter->input(0)->data.int8;
  for (int i = 0; i < {big}_INPUT_BYTES; i++) input[i] = {word}_level(pixels[i]);
  if (interpreter->Invoke() != kTfLiteOk) return false;
  const int8_t* out = interpreter->output(0)->data.int8;
{said}
  return true;
}}
"""
