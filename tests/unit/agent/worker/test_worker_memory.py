"""Where tensors lie in the shared memory, and what of it is believed."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backends.base import NUMPY_DTYPES, TensorInfo
from agent.worker import channel
from agent.worker.channel import (
    MAX_FIXED_BYTES,
    ArenaError,
    ArenaFullError,
    ArenaTensor,
    Layout,
    join_bytes,
    layout_from_json,
    make_layout,
    read_arena,
    split_bytes,
    write_arena,
)
from registry.contracts import tensors as contract
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import InferenceCode

LENET = ((TensorInfo("x", "FP32", (-1, 1, 28, 28)),), (TensorInfo("y", "FP32", (-1, 10)),))


def layout_of(*pair: tuple[TensorInfo, ...], slots: int = 8, arenas: int = 2, arena_bytes: int = 4096) -> Layout:
    return make_layout(pair[0], pair[1], slots=slots, arenas=arenas, arena_bytes=arena_bytes)


def test_the_tables_are_those_of_the_contract() -> None:
    assert {str(name): size for name, size in contract.ITEM_BYTES.items()} == channel.ITEM_BYTES
    assert {**{str(n): code for n, code in contract.NUMPY_NAME.items()}, "BYTES": "|O"} == NUMPY_DTYPES
    assert set(channel.ERROR_CODES[1:]) <= set(InferenceCode)
    assert (channel.MAX_TENSORS, channel.MAX_RANK, channel.MAX_ELEMENTS) == (
        contract.MAX_TENSORS,
        contract.MAX_RANK,
        contract.MAX_ELEMENTS,
    )


def test_slots_of_a_batchable_model_follow_each_other_without_padding() -> None:
    layout = layout_of(*LENET)
    assert layout.batchable
    assert (layout.inputs[0].item_shape, layout.inputs[0].item_bytes) == ((1, 28, 28), 3136)
    memory = memoryview(bytearray(layout.total))
    layout.slot_view(memory, layout.inputs[0], 3)[:] = b"\7" * 3136
    assert memory[3 * 3136] == memory[4 * 3136 - 1] == 7
    assert memory[3 * 3136 - 1] == memory[4 * 3136] == 0
    assert layout.request_shape(layout.inputs[0]) == (1, 1, 28, 28)


def test_registry_and_backend_signatures_lay_out_the_same() -> None:
    specs = [tuple(TensorSpec(name=t.name, datatype=t.datatype, shape=t.shape) for t in side) for side in LENET]
    assert make_layout(*specs, slots=8, arenas=2, arena_bytes=4096) == layout_of(*LENET)


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "kind", "item_shape"),
    [
        ((3, 4), (2,), "FP32", (3, 4)),
        ((-1, 4), (1, 2), "FP32", (1, 4)),
        ((), (), "INT64", ()),
        ((-1,), (-1, 2), "BF16", ()),
    ],
)
def test_a_model_with_known_shapes_has_fixed_slots(
    shape_in: tuple[int, ...], shape_out: tuple[int, ...], kind: str, item_shape: tuple[int, ...]
) -> None:
    layout = layout_of((TensorInfo("x", kind, shape_in),), (TensorInfo("y", "FP32", shape_out),))
    assert layout.slots == 8
    assert layout.inputs[0].item_shape == item_shape


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "kind"),
    [
        ((-1, -1), (-1, 2), "FP32"),
        ((3,), (-1, -1), "FP32"),
        ((3,), (3,), "BYTES"),
        ((0, 3), (3,), "FP32"),
        ((1 << 31,), (3,), "FP32"),
        ((), (), "BYTES"),
    ],
)
def test_any_other_model_has_arenas_only(shape_in: tuple[int, ...], shape_out: tuple[int, ...], kind: str) -> None:
    layout = layout_of((TensorInfo("x", kind, shape_in),), (TensorInfo("y", "FP32", shape_out),))
    assert (layout.slots, layout.ids, layout.inputs) == (0, 2, ())


@pytest.mark.parametrize(
    ("item_bytes", "slots"), [(3 << 10, 1000), (1 << 20, 31), (3 << 20, 16), (64 << 20, 3), (255 << 20, 1)]
)
def test_large_items_get_fewer_slots(item_bytes: int, slots: int) -> None:
    image = TensorInfo("x", "UINT8", (-1, item_bytes))
    layout = layout_of((image,), (TensorInfo("y", "UINT8", (-1, 1)),), slots=1000)
    assert layout.slots == slots
    assert layout.arena_offset <= MAX_FIXED_BYTES + 128


sides = st.lists(
    st.tuples(st.sampled_from([*channel.ITEM_BYTES, "BYTES"]), st.lists(st.integers(-1, 9), max_size=4).map(tuple)),
    min_size=1,
    max_size=4,
)


@given(inputs=sides, outputs=sides, slots=st.integers(1, 40), arenas=st.integers(1, 5), size=st.integers(4096, 9000))
def test_no_two_regions_overlap_and_all_lie_inside(
    inputs: list[tuple[str, tuple[int, ...]]],
    outputs: list[tuple[str, tuple[int, ...]]],
    slots: int,
    arenas: int,
    size: int,
) -> None:
    named = [
        tuple(TensorInfo(f"{side}{index}", *entry) for index, entry in enumerate(entries))
        for side, entries in (("x", inputs), ("y", outputs))
    ]
    layout = layout_of(*named, slots=slots, arenas=arenas, arena_bytes=size)
    regions = [(t.offset, layout.slots * t.item_bytes) for t in (*layout.inputs, *layout.outputs)]
    regions += [(layout.arena_offset, layout.arenas * layout.arena_bytes), (layout.status_offset, 4 * layout.ids)]
    regions.append((layout.error_offset, channel.ERROR_BYTES * layout.ids))
    end = 0
    for offset, length in regions:
        assert offset >= end
        assert offset % channel.ALIGNMENT == 0
        end = offset + length
    assert end == layout.total
    assert layout_from_json(layout.to_json()) == layout


def test_an_error_is_bounded_printable_and_has_a_known_code() -> None:
    layout = layout_of(*LENET)
    memory = memoryview(bytearray(layout.total))
    layout.set_error(memory, 9, "wrong_shape", "not\0 \x1b[31m so: " + "é" * 1000)
    code, text = layout.error(memory, 9)
    assert code == "wrong_shape"
    assert text.startswith("not ")
    assert text.isprintable()
    assert len(text) <= channel.ERROR_BYTES
    assert layout.statuses(memory)[9] != 0
    assert layout.statuses(memory)[8] == 0
    layout.set_error(memory, 8, "made_up", "")
    assert layout.error(memory, 8) == ("run_failed", "")
    struct.pack_into("<I", memory, layout.status_offset, 4_000_000_000)
    assert layout.error(memory, 0)[0] == "run_failed"


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def arena_tensors(draw: st.DrawFn) -> ArenaTensor:
    datatype = draw(st.sampled_from([*channel.ITEM_BYTES, "BYTES"]))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = 1
    for dim in shape:
        count *= dim
    if datatype == "BYTES":
        data = join_bytes(draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count)))
    else:
        data = draw(
            st.binary(min_size=count * channel.ITEM_BYTES[datatype], max_size=count * channel.ITEM_BYTES[datatype])
        )
    return ArenaTensor(draw(names), datatype, shape, data)


@given(tensors=st.lists(arena_tensors(), max_size=5), outputs=st.none() | st.lists(names, max_size=3))
def test_what_is_written_into_an_arena_is_read_back(tensors: list[ArenaTensor], outputs: list[str] | None) -> None:
    view = memoryview(bytearray(1 << 14))
    write_arena(view, tensors, outputs)
    content = read_arena(view)
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in content.tensors] == [tuple(t) for t in tensors]
    assert content.outputs == (None if outputs is None else tuple(outputs))


@given(st.binary(min_size=4, max_size=300), st.integers(0, 400))
def test_arbitrary_bytes_are_read_or_refused(raw: bytes, length: int) -> None:
    view = memoryview(bytearray(struct.pack("<I", length) + raw))
    with pytest.raises(ArenaError):
        read_arena(view)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "name": st.just("x") | json_values,
        "datatype": st.sampled_from(["FP32", "BYTES", "FP4"]) | json_values,
        "shape": st.lists(st.integers(-1, 1 << 33), max_size=9) | json_values,
        "offset": st.integers(-5, 600) | json_values,
        "size": st.integers(-5, 600) | json_values,
    }
)


@given(st.fixed_dictionaries({"tensors": st.lists(entries, max_size=2) | json_values, "outputs": json_values}))
def test_a_lying_arena_never_gives_a_view_outside_itself(meta: object) -> None:
    raw = json.dumps(meta).encode()
    view = memoryview(bytearray(2048 + len(raw)))
    struct.pack_into("<I", view, 0, len(raw))
    view[4 : 4 + len(raw)] = raw
    try:
        content = read_arena(view)
    except ArenaError:
        return
    for tensor in content.tensors:
        count = 1
        for dim in tensor.shape:
            count *= dim
        assert len(tensor.data) >= 4 * count if tensor.datatype == "BYTES" else len(tensor.data) == 4 * count


def test_deep_nesting_is_refused() -> None:
    raw = b"[" * 100_000
    view = memoryview(bytearray(struct.pack("<I", len(raw)) + raw))
    with pytest.raises(ArenaError):
        read_arena(view)


def test_what_does_not_fit_is_refused_and_names_the_sizes() -> None:
    with pytest.raises(ArenaFullError, match="the arena has 4096"):
        write_arena(memoryview(bytearray(4096)), [ArenaTensor("x", "UINT8", (5000,), bytes(5000))])


@given(st.binary(max_size=40), st.integers(0, 8))
def test_bytes_elements_add_up_or_are_refused(raw: bytes, count: int) -> None:
    try:
        elements = split_bytes(raw, count)
    except ArenaError:
        return
    assert len(elements) == count
    assert join_bytes(elements) == raw
