"""8-bit floats in JSON: the same bytes and the same numbers as the package of their standard types gives."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from agent.dataplane.answers import is_finite, kinds_in
from registry.contracts.tensors import FLOAT8, Datatype, numbers
from registry.inference.errors import RequestError
from registry.inference.json_tensors import data_from_json, data_to_json

TYPES = {
    Datatype.FP8E4M3FN: ml_dtypes.float8_e4m3fn,
    Datatype.FP8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    Datatype.FP8E5M2: ml_dtypes.float8_e5m2,
    Datatype.FP8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    Datatype.FP8E8M0: ml_dtypes.float8_e8m0fnu,
}
BYTES = np.arange(256, dtype=np.uint8)


def test_every_type_is_looked_at() -> None:
    assert TYPES.keys() == FLOAT8


@pytest.mark.parametrize("kind", TYPES)
def test_each_byte_is_the_number_of_its_standard(kind: Datatype) -> None:
    np.testing.assert_array_equal(numbers(kind, BYTES), BYTES.view(TYPES[kind]).astype(np.float64))
    assert numbers(kind, BYTES[3].reshape(())).shape == ()


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_are_rounded_to_the_nearest_even(kind: Datatype) -> None:
    held = numbers(kind, BYTES)
    held = np.unique(held[np.isfinite(held)])
    middles = (held[1:] + held[:-1]) / 2
    values = np.concatenate([held, middles, middles * 1.001, middles * 0.999])
    if kind is Datatype.FP8E8M0:  # above its smallest the package rounds up whatever comes
        values = np.concatenate([held, held[1:-1] * 1.2, held[1:-1] * 1.8])
    want = values.astype(TYPES[kind])
    fits = np.isfinite(want.astype(np.float64))
    text = json.dumps(values[fits].tolist()).encode()
    got = data_from_json(text, kind, (int(fits.sum()),), "x")
    assert got == want[fits].tobytes()


@pytest.mark.parametrize("kind", TYPES)
def test_what_the_type_cannot_hold_is_refused(kind: Datatype) -> None:
    for number in ("1e30", "-1e30") if kind is not Datatype.FP8E8M0 else ("0", "-1", "1e60"):
        with pytest.raises(RequestError, match=kind) as caught:
            data_from_json(f"[{number}]".encode(), kind, (1,), "x")
        assert caught.value.code == "wrong_datatype"


def test_nan_and_infinity_go_out_as_their_tokens() -> None:
    assert data_to_json(bytes([0x7C, 0xFC, 0x7F, 0x3C]), "FP8E5M2", "y") == b"[Infinity,-Infinity,NaN,1.0]"
    assert not is_finite("FP8E5M2", bytes([0x7C]))
    assert not is_finite("FP8E4M3FN", bytes([0x7F]))
    assert kinds_in("FP8E4M3FN", bytes([0x7F, 0x3C])) == 1
    assert kinds_in("FP8E5M2", bytes([0x7C, 0xFC])) == 6
    assert is_finite("FP8E4M3FN", bytes([0x7E]))


@pytest.mark.parametrize(
    ("text", "datatype", "right"),
    [(b"5", "INT64", b"\5" + bytes(7)), (b" true", "BOOL", b"\1"), (b'"ab"', "BYTES", b"\2\0\0\0ab"),
     (b"[5]", "UINT8", b"\5")],
)  # fmt: skip
def test_a_tensor_without_dimensions_may_stand_bare(text: bytes, datatype: str, right: bytes) -> None:
    assert data_from_json(text, datatype, (), "x") == right


def test_a_bare_number_is_no_list() -> None:
    with pytest.raises(RequestError) as caught:
        data_from_json(b"5", "INT64", (1,), "x")
    assert caught.value.code == "wrong_shape"
