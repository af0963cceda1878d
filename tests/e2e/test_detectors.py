"""Pictures in, boxes out: a red rectangle is found where it lies in the picture, whatever way the picture went in."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt.client import MQTTv311
from PIL import Image, ImageDraw

from registry.client.devices import AsyncClient, Client, DetectedObject, DetectionOptions, DeviceError
from tests.support.clients.asking import Asker
from tests.support.models.detectors import LAYOUTS, publish_file
from tests.support.programs.fleet import Fleet

DEVICE = "edge-1"
SIDE = 64
WIDTH, HEIGHT = 301, 173
BOX = (91, 35, 190, 122)
"""Left, top, right, bottom of the rectangle: within what `crop` leaves."""
RESIZES = {
    "stretch": (),
    "pad": (),
    "letterbox": ("pad_value = 114",),
    "crop": ("shorter_edge = 70",),
}


def picture(box: tuple[int, int, int, int] | None = BOX, *, orientation: int = 1, kind: str = "PNG") -> bytes:
    """White, with a red rectangle; `orientation`: stored as EXIF says, so that a viewer shows the same."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    if box is not None:
        ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="red")
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (image.transpose(turn[orientation]) if orientation in turn else image).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(DEVICE, running.add_device(DEVICE))
        for layout in LAYOUTS:
            running.registry("publish", str(publish_file(folder, layout, layout, SIDE)))
        for resize, more in RESIZES.items():
            image = "\n".join((f'resize = "{resize}"', *more))
            joined = "[variant.batching]\nindependent = true"
            running.registry("publish", str(publish_file(folder, resize, "yolov8", SIDE, image=image, more=joined)))
        for model in (*LAYOUTS, *RESIZES):
            running.registry("deploy", f"{model}@1", "--device", DEVICE)
        for model in (*LAYOUTS, *RESIZES):
            running.registry("deploy", f"{model}@1", "--device", DEVICE, "--wait")
        yield running


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as connected:
        yield connected


def is_the_box(found: Any, box: tuple[int, ...] = BOX, scale: float = WIDTH / SIDE) -> None:
    """Edges are found to a pixel of the input."""
    np.testing.assert_allclose(found, box, atol=scale)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rectangle_is_found_once_in_the_pictures_own_pixels(client: Client, layout: str) -> None:
    (found,) = client.infer(DEVICE, layout, picture=picture()).detections
    is_the_box(found.box)
    assert (found.label, found.class_id) == ("dog", 1)
    assert found.score == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_without_a_rectangle_has_no_detections(client: Client, layout: str) -> None:
    answer = client.infer(DEVICE, layout, picture=picture(None))
    assert answer.detections == []
    assert {name: array.shape for name, array in answer.outputs.items()} == {
        "boxes": (0, 4), "scores": (0,), "classes": (0,), "labels": (0,)
    }  # fmt: skip


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_box_is_that_of_the_picture_that_a_viewer_shows(client: Client, resize: str, orientation: int) -> None:
    (found,) = client.infer(DEVICE, resize, picture=picture(orientation=orientation, kind="JPEG")).detections
    is_the_box(found.box)
    assert isinstance(found, DetectedObject)


def test_answers_of_joined_requests_are_each_their_own(client: Client) -> None:
    boxes = [(10 + 5 * number, 20, 80 + 9 * number, 60 + 4 * number) for number in range(20)]
    answers = client.infer_many([picture(box) for box in boxes], device=DEVICE, model="letterbox", window=20)
    for box, answer in zip(boxes, answers, strict=True):
        (found,) = answer.detections
        is_the_box(found.box, box)


def test_a_plain_picture_over_mqtt_311_is_answered_in_json_on_the_results_topic(fleet: Fleet) -> None:
    topic = f"modelfleet/v1/devices/{DEVICE}"
    asker = Asker(
        fleet.broker_port, f"{topic}/infer/letterbox", protocol=MQTTv311, listen=(f"{topic}/results/letterbox",)
    )
    try:
        answer = asker.one(picture())
    finally:
        asker.close()
    outputs = {each["name"]: each for each in json.loads(answer.payload)["outputs"]}
    assert {name: each["shape"] for name, each in outputs.items()} == {
        "boxes": [1, 4], "scores": [1], "classes": [1], "labels": [1]
    }  # fmt: skip
    is_the_box(outputs["boxes"]["data"])
    assert outputs["labels"]["data"] == ["dog"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_asyncio_gets_the_same(fleet: Fleet, protocol: str) -> None:
    async def ask() -> list[DetectedObject]:
        async with AsyncClient(f"mqtt://127.0.0.1:{fleet.broker_port}", protocol=protocol) as client:
            limits = DetectionOptions(iou_threshold=1.0)
            return (await client.infer(DEVICE, "yolov8", picture=picture(), detections=limits)).detections

    assert [each.label for each in asyncio.run(ask())] == ["dog", "dog"]


def test_a_description_that_does_not_fit_the_model_is_not_published(fleet: Fleet, tmp_path: Path) -> None:
    file = publish_file(tmp_path, "odd", "yolov8", SIDE)
    said = file.read_text()

    def refused(old: str, new: str) -> str:
        assert old in said
        file.write_text(said.replace(old, new))
        with pytest.raises(RuntimeError, match="exit code") as raised:
            fleet.registry("publish", str(file), "--dry-run")
        return str(raised.value)

    labels = 'labels = ["cat", "dog"]'
    assert "it has 2 classes, and there are 3 labels" in refused(labels, 'labels = ["cat", "dog", "cow"]')
    assert "there is no output 'scores'" in refused(labels, labels + '\nscores = {output = "scores"}')
    assert "is it transposed = true?" in refused(labels, labels + '\nscores = {output = "output0", at = 1}')
    assert "over 1" in refused(
        labels, labels + '\nscores = {output = "output0", at = 2, transposed = true}\nextra_values = 2'
    )
    column = '{output = "output0", at = %d, transposed = true}'
    numbers = f"\nclasses = {column % 1}\nscores = {column % 5}"
    assert "is of class" in refused(labels, labels + numbers)
    assert "did you mean 'iou_threshold'" in refused(labels, labels + "\niou_treshold = 0.5")


def test_a_file_that_looks_like_a_detectors_is_published_as_it_is_and_the_publisher_is_told(
    fleet: Fleet, tmp_path: Path
) -> None:
    file = publish_file(tmp_path, "plain", "torchvision", SIDE)
    file.write_text(file.read_text().partition("[detection]")[0])
    told = fleet.registry("publish", str(file))
    assert [text for text in told["warnings"] if 'layout = "torchvision"' in text]
    assert fleet.registry("show", "plain@1")["manifest"]["detection"] is None


def test_a_request_may_say_how_many_boxes_and_how_good_they_are(client: Client) -> None:
    def scores(**more: Any) -> list[float]:
        answer = client.infer(DEVICE, "yolov8", picture=picture(), detections=DetectionOptions(**more))
        return [round(each.score, 2) for each in answer.detections]

    assert scores() == [0.9]
    assert scores(score_threshold=0.95) == []
    assert scores(iou_threshold=1.0) == [0.9, 0.8]
    assert scores(iou_threshold=1.0, max_detections=1) == [0.9]
    with pytest.raises(DeviceError, match="max_detections within 1 to 1000"):
        scores(max_detections=1001)
    with pytest.raises(DeviceError, match="iou_threshold: the model's own graph"):
        client.infer(DEVICE, "torchvision", picture=picture(), detections=DetectionOptions(iou_threshold=0.5))


def test_tensors_are_answered_with_the_models_outputs_unless_detections_are_asked_for(client: Client) -> None:
    tensor = np.ones((1, 3, SIDE, SIDE), np.float32)
    tensor[:, 1:, 5:20, 8:30] = 0
    assert list(client.infer(DEVICE, "yolov8", {"x": tensor}).outputs) == ["output0"]
    (found,) = client.infer(DEVICE, "yolov8", {"x": tensor}, detections=DetectionOptions()).detections
    assert found.box == (8, 5, 30, 20)
    named = client.infer(DEVICE, "yolov8", {"x": tensor}, outputs=["classes", "output0"])
    assert (named["classes"].tolist(), named["output0"].shape) == ([1], (1, 6, 3))
    two = np.concatenate([tensor, tensor])
    assert client.infer(DEVICE, "yolov8", {"x": two})["output0"].shape == (2, 6, 3)
    with pytest.raises(DeviceError, match="made of one item"):
        client.infer(DEVICE, "yolov8", {"x": two}, detections=DetectionOptions())


def test_outputs_of_a_model_with_the_names_of_detections_stay_its_own(client: Client) -> None:
    tensor = np.ones((3, SIDE, SIDE), np.float32)
    tensor[1:, 5:20, 8:30] = 0
    raw = client.infer(DEVICE, "torchvision", {"x": tensor})
    assert (raw["labels"].tolist(), raw.datatypes["labels"]) == ([2], "INT64")
    with pytest.raises(LookupError, match="no detections"):
        _ = raw.detections
    assert client.infer(DEVICE, "torchvision", picture=picture(), detections=False)["labels"].tolist() == [2]
    made = client.infer(DEVICE, "torchvision", {"x": tensor}, detections=DetectionOptions())
    assert made.strings("labels").tolist() == ["dog"]


def test_a_model_that_is_no_detector_says_so(client: Client, fleet: Fleet) -> None:
    with pytest.raises(DeviceError, match="asks for no detections"):
        client.infer(
            DEVICE, "yolov8", picture=picture(), outputs=["output0"], detections=DetectionOptions(score_threshold=0.5)
        )
    described = client.metadata(DEVICE, "yolov8")
    assert described.document["parameters"]["detection"] == {
        "outputs": ["output0"], "labels": 2, "nms": "class", "score_threshold": 0.25, "iou_threshold": 0.7,
        "max_detections": 300,
    }  # fmt: skip


def test_the_command_prints_a_table_of_what_was_found(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "street.png"
    file.write_bytes(picture())
    said = ["ask", DEVICE, "yolov8", "--picture", str(file)]
    code, shown, _ = fleet.run_command(
        said, {**os.environ, "MODELFLEET_BROKER": f"mqtt://127.0.0.1:{fleet.broker_port}"}
    )
    head, row, *rest = [line.split() for line in shown.splitlines()]
    assert (code, rest, head) == (0, [], ["LABEL", "SCORE", "LEFT", "TOP", "RIGHT", "BOTTOM"])
    assert row[:2] == ["dog", "0.9000"]
    is_the_box([float(value) for value in row[2:]])
    (found,) = fleet.registry(*said)["detections"]
    assert (found["label"], found["class"]) == ("dog", 1)
    is_the_box(found["box"])
    assert fleet.registry(*said, "--score-threshold", "0.95")["detections"] == []
