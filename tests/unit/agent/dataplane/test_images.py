"""A picture becomes exactly the tensor that the manifest describes, and its result is labels with scores."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.dataplane.oip.reply_encoder import Classifier
from registry.contracts.catalogue.manifest import Classification, ImageInput
from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError
from registry.inference.reply import OutputTensor
from registry.pictures.bare import MAX_PIXELS
from registry.pictures.decode import decode
from tests.support.clients.oip import Input, decode_reply, encode_request
from tests.unit.agent.dataplane.oip_models import input_bytes, make_codec, spec

RGB = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [250, 251, 252]]], np.uint8)
GREY = np.array([[0, 100]], np.uint8)


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def image_codec(shape: tuple[int, ...], datatype: str = "FP32", classes: bool = False, **image: Any) -> Any:
    declared = ImageInput.model_validate({"input": "x", "scale": 1.0, **image})
    labels = Classification(output="y", labels=("zero", "one", "two"), top_k=2)
    return make_codec(
        [spec("x", datatype, *shape)],
        [spec("y", "FP32", -1, 4)],
        image=declared,
        classification=labels if classes else None,
    )


def tensor_of(codec: Any, picture: bytes, dtype: str = "<f4") -> Any:
    plan, start = codec.decode(picture)
    plan = codec.decode_image(plan, picture[start:], decode)
    (data,) = input_bytes(plan, b"")
    assert plan.literals == ((0, data),)
    return np.frombuffer(data, dtype).reshape(plan.tensors[0].shape)


def test_pixels_are_scaled_shifted_and_laid_out_by_channel() -> None:
    codec = image_codec((-1, 3, 2, 2), height=2, width=2, scale=0.1, mean=(1, 2, 3), std=(1, 2, 0.5))
    tensor = tensor_of(codec, encoded(RGB))
    assert tensor.shape == (1, 3, 2, 2)
    expected = [[[0, 3], [6, 24]], [[0, 1.5], [3, 11.55]], [[0, 6], [12, 44.4]]]
    np.testing.assert_allclose(tensor[0], expected, atol=1e-6)


def test_channels_last_and_blue_first() -> None:
    nhwc = tensor_of(image_codec((1, 2, 2, 3), height=2, width=2, layout="NHWC"), encoded(RGB))
    assert nhwc[0].tolist() == RGB.tolist()
    bgr = tensor_of(image_codec((2, 2, 3), height=2, width=2, layout="NHWC", channels="BGR"), encoded(RGB))
    assert bgr.tolist() == RGB[..., ::-1].tolist()


def test_stretch_is_bilinear() -> None:
    codec = image_codec((1, 1, 1, 4), height=1, width=4, channels="L")
    assert tensor_of(codec, encoded(GREY)).ravel().tolist() == [0, 25, 75, 100]


def test_pad_keeps_the_aspect_ratio_at_the_top_left() -> None:
    codec = image_codec((1, 1, 3, 4), height=3, width=4, channels="L", resize="pad", pad_value=9)
    assert tensor_of(codec, encoded(GREY))[0, 0].tolist() == [[0, 25, 75, 100]] * 2 + [[9] * 4]


def test_letterbox_puts_the_picture_into_the_middle() -> None:
    codec = image_codec((1, 1, 5, 4), height=5, width=4, channels="L", resize="letterbox", pad_value=9)
    rows = [[9] * 4] + [[0, 25, 75, 100]] * 2 + [[9] * 4] * 2  # of three rows that are left, one is above
    assert tensor_of(codec, encoded(GREY))[0, 0].tolist() == rows


def test_crop_scales_the_shorter_edge_and_takes_the_middle() -> None:
    wide = np.arange(0, 140, 10, dtype=np.uint8).reshape(2, 7)
    codec = image_codec((1, 1, 2, 2), height=2, width=2, channels="L", resize="crop")
    assert tensor_of(codec, encoded(wide))[0, 0].tolist() == [[20, 30], [90, 100]]
    codec = image_codec((1, 1, 2, 2), height=2, width=2, channels="L", resize="crop", shorter_edge=4, filter="nearest")
    assert tensor_of(codec, encoded(wide))[0, 0].tolist() == [[30, 30], [100, 100]]


def test_a_model_says_how_large_its_pictures_may_be() -> None:
    codec = image_codec((1, 3, 2, 2), height=2, width=2, max_megapixels=1)
    assert "at most 1000000 pixels" in refuse(codec, encoded(np.zeros((1000, 1001), np.uint8))).message


def test_a_jpeg_is_decoded_at_a_fraction_of_its_size_only_where_the_model_says_so() -> None:
    """A checkerboard of pixels is grey at half its size; whole, its corner is black."""
    checks = np.indices((64, 96)).sum(axis=0) % 2 * 255
    picture = encoded(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8), "JPEG", quality=100, subsampling=0)
    sizes = {"height": 8, "width": 12, "resize": "crop", "shorter_edge": 32, "filter": "nearest", "scale": 1.0}
    whole = tensor_of(image_codec((1, 3, 8, 12), **sizes), picture)
    reduced = tensor_of(image_codec((1, 3, 8, 12), reduced=True, **sizes), picture)
    assert whole.min() < 40 or whole.max() > 215
    assert 100 < reduced.min() <= reduced.max() < 155


def test_a_picture_too_long_to_be_cropped_is_refused() -> None:
    codec = image_codec((1, 1, 512, 512), height=512, width=512, channels="L", resize="crop")
    with pytest.raises(RequestError, match="too long and narrow"):
        tensor_of(codec, encoded(np.zeros((1, 200_000), np.uint8)))


@pytest.mark.parametrize(
    ("datatype", "dtype", "scale", "expected"),
    [("UINT8", "u1", 3.0, [0, 255]), ("INT8", "i1", 1.26, [0, 126]), ("FP16", "<f2", 0.5, [0, 50]),
     ("FP64", "<f8", 0.01, [0, 1]), ("BF16", "<u2", 1.0, [0, 0x42C8]), ("UINT64", "<u8", 1e30, [0, 2**64 - 1])],
)  # fmt: skip
def test_values_take_the_inputs_datatype(datatype: Any, dtype: Any, scale: Any, expected: Any) -> None:
    codec = image_codec((1, 1, 1, 2), datatype, height=1, width=2, channels="L", scale=scale)
    assert tensor_of(codec, encoded(GREY), dtype).ravel().tolist() == expected


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    wide = np.repeat(np.array([[0, 255]], np.uint8), 16, axis=0).repeat(16, axis=1)
    codec = image_codec((1, 1, 32, 16), height=32, width=16, channels="L")
    upright = tensor_of(codec, encoded(wide, "JPEG", quality=95, exif=exif))[0, 0]
    assert upright[:14].max() < 10
    assert upright[18:].min() > 245


@pytest.mark.parametrize(
    ("pixels", "mode", "expected"),
    [(np.array([[0x0102, 0xFF00]], np.uint16), None, [1, 255]), (GREY, "1", [0, 0]), (GREY, "LA", [0, 100]),
     (GREY, "P", [0, 100]), (GREY, "RGBA", [0, 100])],
)  # fmt: skip
def test_other_kinds_of_png_become_grey(pixels: Any, mode: Any, expected: Any) -> None:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode, dither=Image.Dither.NONE) if mode else image).save(buffer, "PNG")
    codec = image_codec((1, 1, 1, 2), height=1, width=2, channels="L")
    assert tensor_of(codec, buffer.getvalue()).ravel().tolist() == expected


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def refuse(codec: Any, payload: bytes, content_type: str = "image/png") -> RequestError:
    def take() -> None:
        codec.decode_image(codec.decode(payload, content_type)[0], payload, decode)

    with pytest.raises(RequestError) as refused:
        take()
    return refused.value


def test_what_is_no_whole_jpeg_or_png_is_refused_whatever_it_is_called() -> None:
    codec = image_codec((1, 3, 2, 2), height=2, width=2)
    noise = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    for kind in ("PNG", "JPEG"):
        whole = encoded(noise, kind)
        for end in (0, 4, 20, len(whole) // 2, len(whole) - 40):
            assert refuse(codec, whole[:end]).code == InferenceCode.BAD_IMAGE
        refused = refuse(codec, whole[:20] + b"\0" * 40)
        assert refused.code == InferenceCode.BAD_IMAGE
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        assert "expected a JPEG or PNG" in refuse(codec, encoded(noise, kind)).message


@pytest.mark.parametrize("size", [(MAX_PIXELS, 2), (1 << 16, 1 << 16), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_would_unfold_beyond_bounds_is_refused_before_it_does(size: Any) -> None:
    codec = image_codec((1, 3, 2, 2), height=2, width=2)
    assert refuse(codec, png_header(*size)).code == InferenceCode.BAD_IMAGE


@pytest.mark.parametrize(
    ("shape", "datatype", "image"),
    [((1, 3, 4, 4), "FP32", {}), ((1, 2, 2, 3), "FP32", {}), ((3,), "FP32", {}), ((1, 3, 2, 2), "BOOL", {}),
     ((1, 3, 2, 2), "FP32", {"scale": 1e308, "std": (1e-9,) * 3}), ((1, 3, 2, 2), "FP32", {"input": "other"})],
)  # fmt: skip
def test_a_declaration_that_does_not_fit_the_model_refuses_pictures_only(shape: Any, datatype: Any, image: Any) -> None:
    codec = image_codec(shape, datatype, height=2, width=2, **image)
    assert refuse(codec, encoded(RGB)).code == InferenceCode.NO_IMAGE_INPUT
    array = np.zeros(shape, np.float32)
    request = encode_request([Input("x", datatype, array)])
    assert not codec.decode(request.payload, "", request.header_length)[0].image


SCORES = np.array([[1.0, 3.0, 3.0, 4.0]], "<f4")


def test_a_frame_comes_back_as_labels_best_first() -> None:
    codec = image_codec((-1, 3, 2, 2), height=2, width=2, classes=True)
    picture = encoded(RGB)
    plan, start = codec.decode(picture, "image/png")
    plan = codec.decode_image(plan, picture[start:], decode)
    assert plan.fixed
    reply = codec.encode_fixed(plan, [memoryview(SCORES.tobytes())])
    result = decode_reply(reply.join(), reply.header_length)
    assert result.outputs["label"].tolist() == [[b"3", b"one"]]
    powers = np.exp(np.array([1, 3, 3, 4.0]) - 4)
    np.testing.assert_allclose(result.outputs["score"], [[1 / powers.sum(), powers[1] / powers.sum()]], rtol=1e-6)
    assert reply.content_type == "application/json"


def test_a_frame_as_a_bytes_tensor_goes_the_same_way_with_an_id_and_outputs_of_choice() -> None:
    codec = image_codec((-1, 3, 2, 2), height=2, width=2, classes=True)
    frame = np.empty(1, dtype=object)
    frame[0] = encoded(RGB)
    for outputs in ((), [("label", True), ("y", None)]):
        request = encode_request([Input("x", "BYTES", frame)], request_id="f-1", outputs=outputs)
        plan, start = codec.decode(request.payload, "", request.header_length)
        assert plan.image
        plan = codec.decode_image(plan, request.payload[start:], decode)
        assert (
            np.frombuffer(input_bytes(plan, b"")[0], "<f4").reshape(1, 3, 2, 2)[0, 0].tolist() == RGB[..., 0].tolist()
        )
        reply = codec.encode_reply(plan, [OutputTensor("y", "FP32", (1, 4), SCORES.tobytes())])
        result = decode_reply(reply.join(), reply.header_length)
        assert list(result.outputs) == [name for name, _ in outputs] or ["label", "score"]
        assert result.header["id"] == "f-1"
        assert result.outputs["label"].tolist() == [[b"3", b"one"]]


def test_a_tensor_request_gets_the_models_own_outputs_and_labels_when_it_asks() -> None:
    codec = image_codec((-1, 3, 2, 2), height=2, width=2, classes=True)
    array = np.zeros((1, 3, 2, 2), np.float32)
    for outputs, names in (((), ["y"]), ([("score", None), ("y", True)], ["score", "y"])):
        request = encode_request([Input("x", "FP32", array)], outputs=outputs)
        plan, _ = codec.decode(request.payload, "", request.header_length)
        assert plan.run_outputs is None
        reply = codec.encode_fixed(plan, [memoryview(SCORES.tobytes())])
        assert list(decode_reply(reply.join(), reply.header_length).outputs) == names


def test_a_wrong_output_of_a_model_with_classes_is_refused_with_label_and_score_among_the_right_ones() -> None:
    codec = image_codec((-1, 3, 2, 2), height=2, width=2, classes=True)
    wrong = encode_request([Input("x", "FP32", np.zeros((1, 3, 2, 2), np.float32))], outputs=[("labels", None)])
    with pytest.raises(RequestError, match="the model has 'y', and what is made of them: 'label', 'score'"):
        codec.decode(wrong.payload, "", wrong.header_length)


@pytest.mark.parametrize(
    ("softmax", "scores", "labels"),
    [(False, [[np.nan, 1, 1, 0]], [[b"one", b"two"]]), (False, [[0, 0, 0, 0]] * 2, [[b"zero", b"one"]] * 2),
     (True, [[-1e30, 1e30, 0, 0]], [[b"one", b"two"]])],
)  # fmt: skip
def test_equal_scores_keep_the_classes_order_and_nan_is_last(softmax: Any, scores: Any, labels: Any) -> None:
    declared = Classification(output="y", labels=("zero", "one", "two"), top_k=2, softmax=softmax)
    codec = make_codec([spec("x", "FP32", -1, 1)], [spec("y", "FP32", -1, 4)], classification=declared)
    request = encode_request([Input("x", "FP32", np.zeros((2, 1)))], outputs=[("label", None)])
    plan, _ = codec.decode(request.payload, "", request.header_length)
    array = np.array(scores, "<f4")
    reply = codec.encode_reply(plan, [OutputTensor("y", "FP32", array.shape, array.tobytes())])
    assert decode_reply(reply.join()).outputs["label"].tolist() == labels


@pytest.mark.parametrize(
    ("shape", "softmax", "labels", "scores", "best"),
    [
        ((2, 3, 1, 1), True, 3, [1, 3, 2, 9, 0, 0], [b"1", b"0"]),
        ((2, 1, 3), True, 3, [1, 3, 2, 9, 0, 0], [b"1", b"0"]),
        ((3,), True, 3, [1, 3, 2], [b"1"]),
        ((2, 1), False, 2, [0.9, 0.2], [b"1", b"0"]),
        ((2,), False, 2, [0.9, 0.2], [b"1", b"0"]),
        ((1,), False, 2, [0.9], [b"1"]),
        ((2, 1, 1, 1), True, 2, [0.1, -0.1], [b"1", b"0"]),
        ((2, 1), True, 1, [0.0, 5.0], [b"0", b"0"]),
    ],
)
def test_scores_of_every_shape_become_the_right_labels(
    shape: Any, softmax: bool, labels: int, scores: Any, best: Any
) -> None:
    made = classified(shape, softmax, labels, scores)
    assert made["label"][:, 0].tolist() == best


def test_one_number_for_each_item_gives_the_scores_of_both_labels() -> None:
    made = classified((2, 1), False, 2, [0.75, 0.25])
    assert made["score"].tolist() == [[0.75, 0.25], [0.75, 0.25]]
    made = classified((2, 1), True, 2, [0.0, 3.0])
    assert made["score"].tolist() == [[0.5, 0.5], pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(3))])]
    assert classified((1, 1), True, 1, [3.0])["score"].tolist() == [[pytest.approx(1 / (1 + np.exp(-3)))]]


def test_a_probability_that_is_over_one_by_rounding_is_one() -> None:
    """As the sum of a hundred trees' votes of 0.01 is in FP32."""
    made = classified((2, 1), False, 2, [np.nextafter(np.float32(1), np.float32(2)), -1e-7])
    assert made["label"].tolist() == [[b"1", b"0"], [b"0", b"1"]]
    assert made["score"].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("shape", "softmax", "labels"), [((2, 1), False, 2), ((2, 1), True, 3), ((1, 2, 1, 1, 2), True, 2), ((), True, 2)]
)
def test_what_holds_no_scores_is_an_error_and_no_label(shape: Any, softmax: bool, labels: int) -> None:
    with pytest.raises(RequestError, match="cannot be classified") as refused:
        classified(shape, softmax, labels, [7.0] * int(np.prod(shape)))
    assert refused.value.code == InferenceCode.RUN_FAILED


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BF16", np.array([0x4000, 0xC040, 0x3F80], "<u2").tobytes()),
        ("FP8E4M3FN", bytes([0x40, 0xC4, 0x38])),
        ("INT8", bytes([2, 253, 1])),
        ("FP16", np.array([2, -3, 1], "<f2").tobytes()),
    ],
)
def test_scores_of_every_type_are_read_as_numbers(datatype: str, data: bytes) -> None:
    classifier = Classifier(Classification(output="y", labels=("a", "b", "c"), softmax=False), [])
    label, score = classifier.classify(OutputTensor("y", datatype, (1, 3), data))
    assert bytes(label.data)[4::5] == b"acb"
    assert np.frombuffer(score.data, "<f4").tolist() == [2, 1, -3]


def classified(shape: Any, softmax: bool, labels: int, scores: Any) -> Any:
    names = tuple(map(str, range(labels)))
    declared = Classification(output="y", labels=names, top_k=2, softmax=softmax)
    codec = make_codec(
        [spec("x", "FP32", -1, 1)],
        [spec("y", "FP32", *(shape if shape == (3,) else (-1, *shape[1:])))],
        classification=declared,
    )
    request = encode_request([Input("x", "FP32", np.zeros((2, 1)))], outputs=[("label", None), ("score", None)])
    plan, _ = codec.decode(request.payload, "", request.header_length)
    array = np.array(scores, "<f4").reshape(shape)
    reply = codec.encode_reply(plan, [OutputTensor("y", "FP32", array.shape, array.tobytes())])
    return decode_reply(reply.join()).outputs


def test_an_output_of_the_model_is_never_replaced_by_a_class_of_the_same_name() -> None:
    labels = Classification(output="label", labels=("zero", "one", "two"), top_k=2)
    codec = make_codec([spec("x", "FP32", -1, 3)], [spec("label", "FP32", -1, 3)], classification=labels)
    x = np.array([[1, 2, 3]], np.float32)
    request = encode_request([Input("x", "FP32", x)], outputs=[("label", False), ("score", False)])
    plan, _ = codec.decode(request.payload, "", request.header_length)
    reply = codec.encode_reply(plan, [OutputTensor("label", "FP32", (1, 3), x.tobytes())])
    outputs = decode_reply(reply.join(), reply.header_length).outputs
    assert outputs["label"].tolist() == [[1, 2, 3]]
    assert outputs["score"].shape == (1, 2)
