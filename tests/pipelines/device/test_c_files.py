"""The header and the program for microcontrollers: compiled here, their bytes and readings held against the file and Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.labels.answers import Margin, make_answer
from cgankd.types import DatasetInfo
from pipelines.device.c_files import Tensor8, bytes_of, c_name, c_string, example, header, method_of, write_c
from pipelines.device.forms import Record, Signature
from tests.pipelines.device.pages import info_of

DATA = bytes(torch.randint(256, (5003,), generator=torch.Generator().manual_seed(0)).tolist())
GIVEN = Tensor8((1, 8, 8, 3), 1.0, -128)
HOSTILE = ('a"; system("x"); //', "??/ \\", "*/ grün \n 7\x001")
COMPILERS = {
    "C": ("gcc", "-std=c11", "-x", "c", "-lm"),
    "C++": ("g++", "-std=c++11", "-x", "c++", "-lm"),
}
CHECK = """
#include <stdio.h>
#include <stdlib.h>
#include "student.h"
int main(int count, char **words) {
  FILE *file = fopen(words[1], "rb");
  for (int i = 0; i < STUDENT_BYTES; i++) if (fgetc(file) != student_model[i]) return 3;
  if (fgetc(file) != EOF || sizeof student_model != STUDENT_BYTES || (size_t)student_model % 16 != 0) return 4;
  for (int pixel = 0; pixel < 256; pixel++) printf("%d ", student_level((uint8_t)pixel));
  for (int i = 2; i + STUDENT_OUTPUTS <= count; i += STUDENT_OUTPUTS) {
    int8_t out[STUDENT_OUTPUTS];
    for (int k = 0; k < STUDENT_OUTPUTS; k++) out[k] = (int8_t)atoi(words[i + k]);
    READ
  }
  return 0;
}
"""


def record_of(info: DatasetInfo, gives: str = "answer") -> Record:
    return Record("litert-int8", Signature("int8", "NHWC", gives), info, Margin(0.9, 0.25, 40), "w" * 64)


def compiled(folder: Path, language: str, source: str, *options: str) -> Path:
    """A program, made without a single warning. Skips the test where there is no compiler."""
    compiler, standard, kind, suffix, library = COMPILERS[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    (folder / "check").write_text(source)
    command = [
        compiler,
        standard,
        "-Wall",
        "-Wextra",
        "-pedantic",
        "-Werror",
        *options,
        kind,
        suffix,
        "check",
        "-o",
        "run",
    ]
    done = subprocess.run([*command, library], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("language", COMPILERS)
def test_header_holds_the_bytes_of_the_file_aligned(tmp_path: Path, language: str) -> None:
    gives = Tensor8((1, 3), 1 / 256, -128)
    text = header("student", DATA, record_of(info_of(class_names=HOSTILE)), GIVEN, gives, 4096)
    (tmp_path / "student.h").write_text(text, encoding="ascii")
    (tmp_path / "student.tflite").write_bytes(DATA)
    read = 'printf("\\n%d %.6f", student_class(out), student_number(out[student_class(out)]));'
    names = 'if (i == 2) for (const char *c = student_labels[2]; *c; c++) printf("\\n%d", (unsigned char)*c);'
    program = compiled(tmp_path, language, CHECK.replace("READ", read + names))
    answers = [[-128, 127, 0], [5, 5, 4], [-3, -2, -1]]
    words = [str(level) for row in answers for level in row]
    done = subprocess.run([program, tmp_path / "student.tflite", *words], capture_output=True, text=True, check=True)
    levels, first, *rest = done.stdout.split("\n")
    assert levels.split() == [str(pixel - 128) for pixel in range(256)]
    shown = HOSTILE[2].encode().split(b"\0")[0]
    assert [int(byte) for byte in rest[: len(shown)]] == list(shown)
    assert [first, *rest[len(shown) :]] == ["1 0.996094", "0 0.519531", "2 0.496094"]
    assert hashlib.sha256(DATA).hexdigest() in text and "STUDENT_ARENA_BYTES 4096" in text
    assert bytes_of(text) == DATA
    (tmp_path / "student.tflite").write_bytes(DATA[:-1] + b"\0")
    assert subprocess.run([program, tmp_path / "student.tflite"], capture_output=True).returncode == 3


SCALARS: list[dict[str, Any]] = [
    {"gives": "answer", "scale": 0.5, "zero": -10},
    {"gives": "outputs", "scale": 0.011, "zero": -20},
    {"gives": "outputs", "scale": 0.011, "zero": -20, "label_max": 360.0, "label_period": 360.0},
    {"gives": "outputs", "scale": 0.011, "zero": 3, "label_min": -20.0, "label_max": 100.0, "label_period": 200.0},
    {
        "gives": "outputs",
        "scale": 0.009,
        "zero": 2,
        "label_max": 360.0,
        "label_period": 360.0,
        "label_answer": "circle",
    },
]


@pytest.mark.parametrize("case", SCALARS, ids=range(len(SCALARS)))
def test_labels_are_read_as_python_reads_them(tmp_path: Path, case: dict[str, Any]) -> None:
    changes = {key: value for key, value in case.items() if key.startswith("label")}
    info = info_of("scalar", label_unit='°"', **changes)
    answer = make_answer(info)
    num = answer.num_outputs if case["gives"] == "outputs" else 1
    gives = Tensor8((1, num), case["scale"], case["zero"])
    text = header("student", DATA, record_of(info, case["gives"]), GIVEN, gives, 4096)
    (tmp_path / "student.h").write_text(text, encoding="ascii")
    (tmp_path / "student.tflite").write_bytes(DATA)
    program = compiled(tmp_path, "C", CHECK.replace("READ", 'printf("\\n%.5f %s", student_label(out), STUDENT_UNIT);'))
    levels = torch.randint(-128, 128, (50, num), generator=torch.Generator().manual_seed(1))
    levels[0], levels[1] = -128, 127
    words = [str(level) for level in levels.ravel().tolist()]
    done = subprocess.run([program, tmp_path / "student.tflite", *words], capture_output=True, check=True)
    rows = [row.split(" ") for row in done.stdout.decode().split("\n")[1:]]
    outputs = case["scale"] * (levels.float() - case["zero"])
    expected = (
        answer(outputs)[:, 0] if case["gives"] == "outputs" else outputs[:, 0].clamp(info.label_min, info.label_max)
    )
    assert torch.allclose(torch.tensor([float(label) for label, _ in rows]), expected, atol=2e-4)
    assert {unit for _, unit in rows} == {'°"'}


STAND_INS = {
    "tensorflow/lite/schema/schema_generated.h": """
        #pragma once
        namespace tflite { struct Model { int bytes; }; inline const Model* GetModel(const void* data) {
          return static_cast<const Model*>(data); } }""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
        #pragma once
        enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
        namespace tflite { template <unsigned int count> struct MicroMutableOpResolver {
          unsigned int added = 0;
          TfLiteStatus one() { return ++added <= count ? kTfLiteOk : kTfLiteError; }
          TfLiteStatus AddConv2D() { return one(); }
          TfLiteStatus AddDepthwiseConv2D() { return one(); }
          TfLiteStatus AddFullyConnected() { return one(); } }; }""",
    "tensorflow/lite/micro/micro_interpreter.h": """
        #pragma once
        #include <cstddef>
        #include <cstdint>
        #include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
        #include "tensorflow/lite/schema/schema_generated.h"
        struct TfLiteTensor { union { int8_t* int8; } data; };
        namespace tflite { struct MicroInterpreter {
          int8_t in[192], out[3]; TfLiteTensor tensors[2];
          template <class Resolver> MicroInterpreter(const Model*, const Resolver& resolver, uint8_t*, size_t size)
              : ready(size >= 5120 && resolver.added == 3) { tensors[0].data.int8 = in; tensors[1].data.int8 = out; }
          bool ready;
          TfLiteStatus AllocateTensors() { return ready ? kTfLiteOk : kTfLiteError; }
          TfLiteTensor* input(int) { return &tensors[0]; }
          TfLiteTensor* output(int) { return &tensors[1]; }
          TfLiteStatus Invoke() { for (int i = 0; i < 3; i++) out[i] = in[i]; return kTfLiteOk; } }; }""",
}


@pytest.mark.parametrize("kind", ["class", "scalar"])
def test_program_compiles_against_stand_ins_of_the_library_and_asks_the_model(tmp_path: Path, kind: str) -> None:
    info = info_of(kind)
    gives = Tensor8((1, 3 if kind == "class" else 1), 1 / 256 if kind == "class" else 0.25, -128)
    (tmp_path / "student.h").write_text(header("student", DATA, record_of(info), GIVEN, gives, 4096), encoding="ascii")
    text = example("student", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"], classes=kind == "class")
    assert len(text.splitlines()) <= 40
    for name, stand_in in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(stand_in)
    main = (
        "\nint main() { uint8_t pixels[192] = {10, 200, 30}; return student_begin() && student_ask(pixels) ? 0 : 1; }\n"
    )
    program = compiled(tmp_path, "C++", text + main, "-I.")
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout == ("bee 0.7812\n" if kind == "class" else "2.5 years\n")


def test_names_and_texts_of_users_are_safe_in_c() -> None:
    assert [c_name(name) for name in ("my model", "7-up", 'a";x', "é", "Student_2")] == [
        "my_model",
        "model_7_up",
        "a_x",
        "model",
        "Student_2",
    ]
    assert c_string('a"b\\c?é\n1') == '"a\\042b\\134c\\077\\303\\251\\0121"'
    assert [
        method_of(name) for name in ("CONV_2D", "BATCH_MATMUL", "L2_NORMALIZATION", "RELU6", "PADV2", "SOFTMAX")
    ] == [
        "AddConv2D",
        "AddBatchMatMul",
        "AddL2Normalization",
        "AddRelu6",
        "AddPadV2",
        "AddSoftmax",
    ]


def made_tflite(path: Path, *, types: tuple[int, int] = (9, 9)) -> Path:
    """A LiteRT file with a record and tensors of these types, which computes nothing."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    from pipelines.device.litert import _packed, with_record

    tensors = []
    for name, shape, number, scale in (("in", (1, 8, 8, 3), types[0], 1.0), ("out", (1, 3), types[1], 1 / 256)):
        tensor, rule = schema.TensorT(), schema.QuantizationParametersT()
        rule.scale, rule.zeroPoint = [scale], [-128]
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), number, 0
        tensor.quantization = rule if number else None  # a float has none
        tensors.append(tensor)
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], []
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    path.write_bytes(with_record(_packed(model, 4096), record_of(info_of(class_names=HOSTILE))))
    return path


def test_whole_int8_file_becomes_a_header_and_a_program(tmp_path: Path) -> None:
    tflite = made_tflite(tmp_path / "student-int8.tflite")
    files = write_c(tflite, tmp_path / "c", arena=3905, operators=["CONV_2D"], name="my student")
    assert [path.name for path in files] == ["my_student.h", "my_student_example.cc"]
    text = files[0].read_text(encoding="ascii")
    assert bytes_of(text) == tflite.read_bytes()
    for line in (
        "ARENA_BYTES 3920",
        "INPUT_SCALE 1.0f",
        "INPUT_ZERO (-128)",
        "OUTPUT_SCALE 0.00390625f",
        "MARGIN 0.25f",
    ):
        assert f"#define MY_STUDENT_{line}\n" in text
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == sorted(path.name for path in files)


def test_file_that_is_no_whole_int8_file_or_was_not_run_is_one_sentence(tmp_path: Path) -> None:
    half, bytes_in = (
        made_tflite(tmp_path / "half.tflite", types=(9, 0)),
        made_tflite(tmp_path / "u8.tflite", types=(3, 9)),
    )
    for path, arena, words in (
        (bytes_in, 100, "is not int8 from its input to its output"),
        (half, 100, "is not int8 from its input to its output"),
        (half, 0, "was not run by the interpreter"),
        (tmp_path / "none.tflite", 100, "is missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            write_c(path, tmp_path / "c", arena=arena, operators=["CONV_2D"])
    damaged = bytearray(half.read_bytes())
    damaged[40] ^= 1
    half.write_bytes(bytes(damaged))
    with pytest.raises(ConfigError, match="is damaged"):
        write_c(half, tmp_path / "c", arena=100, operators=["CONV_2D"])
    assert not (tmp_path / "c").exists()
