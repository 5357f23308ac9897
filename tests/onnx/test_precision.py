"""The precision setting: what it reads, what it refuses, and what it says of a block."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rinsc
from rinsc.backends.onnx.precision import (
    BLOCK_SIZES,
    EMBEDDING_FORMATS,
    FLOAT_TYPES,
    KEPT_FORMATS,
    PRECISIONS,
    WEIGHT_ONLY_BITS,
    Precision,
    check_blocks,
    parse_precision,
)
from rinsc.errors import RinscError, UsageError

LETTERS = st.from_regex("[A-Z][0-9]{0,2}", fullmatch=True)


@st.composite
def precisions(draw: st.DrawFn) -> Precision:
    name = draw(st.sampled_from(PRECISIONS))
    sizes = BLOCK_SIZES if name in WEIGHT_ONLY_BITS else BLOCK_SIZES[:1]
    kept = st.dictionaries(LETTERS, st.sampled_from(KEPT_FORMATS), max_size=4)
    keep = {} if name in FLOAT_TYPES else draw(kept)
    tables = (name,) if name in FLOAT_TYPES else EMBEDDING_FORMATS
    return Precision(
        name,
        draw(st.sampled_from(sizes)),
        keep,
        embedding=draw(st.none() | st.sampled_from(tables)),
        symmetric=name == "int4" and draw(st.booleans()),
    )


@given(precisions())
def test_the_text_reads_back(precision: Precision) -> None:
    assert parse_precision(precision.text) == precision
    assert hash(parse_precision(precision.text)) == hash(precision)
    assert parse_precision(precision.text).text == precision.text


def test_a_text_that_says_too_little_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Precision, "text", property(lambda precision: precision.name))
    with pytest.raises(AssertionError):
        test_the_text_reads_back()


@given(precisions(), precisions())
def test_equal_texts_are_equal_precisions(one: Precision, other: Precision) -> None:
    assert (one.text == other.text) == (one == other)


@given(st.text(max_size=40) | st.text("fpint8416:/,ABZ -dynamicsebg", max_size=24))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        precision = parse_precision(text)
    except RinscError as error:
        problems = error.problems
    else:
        problems = ()
        assert parse_precision(precision.text) == precision
    assert all(problem.hint for problem in problems)


@given(precisions(), st.none() | LETTERS)
def test_a_block_is_stored_as_kept_else_as_the_rest(
    precision: Precision, block: str | None
) -> None:
    kept = None if block is None else dict(precision.keep).get(block)
    assert precision.matrix_format(block) == (kept or precision.name)
    for letter, form in precision.keep.items():
        assert precision.matrix_format(letter) == form


@pytest.mark.parametrize(
    ("text", "float_type"),
    [
        ("fp32", "fp32"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
        ("int8-dynamic", "fp32"),
        ("int8", "fp32"),
        ("int4/128 fp16:A", "fp32"),
    ],
)
def test_activations_are_floats(text: str, float_type: str) -> None:
    assert parse_precision(text).float_type == float_type


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        ("int4/32", "int4"),
        ("int8/128", "int8/128"),
        ("  int4   fp16:B,A  fp16:A ", "int4 fp16:A,B"),
        ("int4 fp16:B fp32:A", "int4 fp32:A fp16:B"),
        ("int4 int8:embedding fp16:A symmetric", "int4 symmetric fp16:A int8:embedding"),
        ("int4/128 fp16:A,embedding", "int4/128 fp16:A fp16:embedding"),
        ("int4 int4:embedding", "int4"),
        ("int8 int8:embedding", "int8"),
        ("int8-dynamic fp32:embedding", "int8-dynamic"),
        ("fp16 fp16:embedding", "fp16"),
    ],
)
def test_there_is_one_spelling(spelled: str, canonical: str) -> None:
    assert parse_precision(spelled).text == canonical


def test_options_add_to_the_text() -> None:
    given = parse_precision("int4", block_size=128, keep=["fp16:A, B", "fp32:C", "fp16:A"])
    assert given == Precision("int4", 128, {"A": "fp16", "B": "fp16", "C": "fp32"})
    assert parse_precision("int4 fp16:A", keep=["fp16:B"]).text == "int4 fp16:A,B"


def test_the_embedding_and_zero_points_are_options_too() -> None:
    given = parse_precision("int4", keep=["fp16:A"], embedding="int8", symmetric=True)
    assert given == Precision("int4", keep={"A": "fp16"}, embedding="int8", symmetric=True)
    assert parse_precision("int4 int8:embedding", embedding="int8").embedding == "int8"


@pytest.mark.parametrize(
    ("text", "table", "head"),
    [
        ("fp32", "fp32", "fp32"),
        ("fp16", "fp16", "fp16"),
        ("int8-dynamic", "fp32", "int8-dynamic"),
        ("int8-dynamic int8:embedding", "int8", "int8"),
        ("int8", "int8", "int8"),
        ("int4", "int4", "int4"),
        ("int4 int8:embedding", "int8", "int8"),
        ("int4 fp16:embedding", "fp16", "int4"),
        ("int4 fp16:A fp32:embedding", "fp32", "int4"),
    ],
)
def test_a_tied_head_reads_the_bits_of_the_table(text: str, table: str, head: str) -> None:
    precision = parse_precision(text)
    assert precision.table_format == table
    assert precision.matrix_format("embedding") == head


def test_a_precision_is_a_value() -> None:
    keep = {"A": "fp16"}
    precision = Precision("int4", keep=keep)
    keep["A"] = "fp32"
    assert precision.matrix_format("A") == "fp16"
    for same in (copy.deepcopy(precision), pickle.loads(pickle.dumps(precision))):
        assert same == precision


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        ("in4", "unknown-precision", "'in4' is not a precision", "did you mean 'int4'?"),
        ("FP16", "unknown-precision", "'FP16' is not a precision", "did you mean 'fp16'?"),
        ("fp9", "unknown-precision", "'fp9' is not", f"one of: {', '.join(PRECISIONS)}"),
        ("", "unknown-precision", "'' is not a precision", f"one of: {', '.join(PRECISIONS)}"),
        ("int4/64", "block-size", "'64' is not a block size", "it is 32 or 128"),
        ("int4/", "block-size", "'' is not a block size", "it is 32 or 128"),
        ("fp16/32", "block-size", "a block size means nothing to 'fp16'", "it goes with"),
        ("int8-dynamic/128", "block-size", "nothing to 'int8-dynamic'", "int8 and int4"),
        ("int4 fp16", "keep", "'fp16' does not say which block", "write fp16:A"),
        ("int4 fp16:", "keep", "'fp16:' does not say which block", "write fp16:A"),
        ("int4 int8:A", "keep", "cannot be kept in 'int8'", "one of: fp32, fp16"),
        ("int4 fp61:A", "keep", "cannot be kept in 'fp61'", "did you mean 'fp16'?"),
        ("int4 fp16:a", "keep", "'a' is not the letter of a block", "like A or B2"),
        ("int4 fp16:A,,B", "keep", "'' is not the letter of a block", "like A or B2"),
        ("int4 fp16:A fp32:A", "keep", "'A' is kept in fp16 and in fp32", "name each block once"),
        ("int4 int3:embedding", "embedding", "cannot be stored in 'int3'", "one of: fp32, fp16"),
        ("int4 bf16:embedding", "embedding", "cannot be stored in 'bf16'", "one of: fp32, fp16"),
        ("fp16 int8:embedding", "embedding", "precision of floats", "int8, int4 or fp8"),
        ("int4 int8:embedding fp16:embedding", "keep", "the embedding is kept in", "once"),
        ("int8 symmetric", "symmetric", "'int8' has no zero points", "goes with int4"),
        ("fp32 symmetric", "symmetric", "'fp32' has no zero points", "goes with int4"),
        ("int4 symetric", "keep", "'symetric' does not say", "did you mean 'symmetric'?"),
        ("fp16 fp32:A", "keep", "'fp16' is a precision of floats", "keep blocks from"),
        ("fp32 fp32:A", "keep", "'fp32' is a precision of floats", "keep blocks from"),
    ],
)
def test_a_mistake_says_what_to_do(text: str, code: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_precision(text)
    assert caught.value.code == code
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_block_size_is_said_once_and_where_it_means_something() -> None:
    for text, size in (("int4/128", 32), ("fp16", 32), ("int4", 64)):
        with pytest.raises(UsageError) as caught:
            parse_precision(text, block_size=size)
        assert caught.value.code == "block-size"


def test_one_made_in_python_is_held_to_the_same_rules() -> None:
    for wrong in (("fp16", 128), ("int4", 33), ("int9", 32), ("bf16", 32, {"A": "fp32"})):
        with pytest.raises(UsageError):
            Precision(*wrong)


def test_kept_blocks_are_blocks_of_the_model() -> None:
    precision = parse_precision("int4 fp16:A,C,B2")
    check_blocks(precision, ("A", "B2", "C"))
    with pytest.raises(UsageError) as caught:
        check_blocks(precision, {"A", "B"})
    assert [problem.code for problem in caught.value.problems] == ["unknown-block"] * 2
    assert "no block 'B2'" in str(caught.value)
    assert "did you mean 'B'?" in str(caught.value)


@pytest.mark.parametrize("form", [{}, {"rounds": "dynamic"}, {"cache": True}, {"portable": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_fp8_computes_with_what_torch_rounds(form: dict[str, Any], tied: bool) -> None:
    spec = rinsc.model_spec("A^2B", preset="tiny", layers=2, tied_embedding=tied)
    exact, rounded = rinsc.to_torch(spec).eval(), rinsc.to_torch(spec).eval()
    weights = {name: tensor.clone() for name, tensor in exact.state_dict().items()}
    weights["A.0.query.weight"][0, 0] = 1e4  # more than the format holds
    exact.load_state_dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            small = tensor.clamp(-448, 448).to(torch.float8_e4m3fn)
            weights[name] = small.float()
    rounded.load_state_dict(weights)
    model = rinsc.to_onnx(exact, precision="fp8", **form)
    ids = [[1, 2, 3]]
    with torch.no_grad():
        expected = rounded(torch.tensor(ids)).numpy()
    np.testing.assert_allclose(rinsc.Session(model).logits(ids), expected, atol=1e-5)
    stored = [value.const_value for value in model.ir.graph.initializers.values()]
    large = {x.dtype.name for x in stored if x and x.size >= 4096 and len(x.shape) == 2}
    assert "FLOAT8E4M3FN" in large
