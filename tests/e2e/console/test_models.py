"""Models and versions in a browser: what they are, how good they are, what people do with them."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from tests.support.programs.browser import Visit
from tests.support.programs.registry_process import RegistryProcess, manifest_of, put_blob

MODEL, SET = "digits", "test-set"
VERSIONS = {"1.0.0": 0.75, "1.1.0": 0.5, "2.0.0": 1.0}
AT = f"/console/models/{MODEL}"


@pytest.fixture(scope="module", autouse=True)
def published(registry: RegistryProcess) -> None:
    """Versions with golden vectors that the publisher measured, and scores."""
    items = Tensor(Datatype.FP32, (4, 4), bytes(64))
    golden = write_tensors({"0/in/x": Tensor(Datatype.FP32, (1, 4), bytes(16)),
                            "0/out/y": Tensor(Datatype.FP32, (1, 3), bytes(12))})  # fmt: skip
    validation = write_tensors({"in/x": items, "labels": Tensor(Datatype.INT64, (4,), bytes(32))})
    with registry.client() as http:
        size, digest = len(bytes(validation)), put_blob(http, bytes(validation))
        http.put(f"/v1/datasets/{SET}", json={"digest": digest, "size": size}).raise_for_status()
        vectors = {"path": "golden.safetensors", "digest": put_blob(http, bytes(golden)), "size": len(bytes(golden))}
        for version, score in VERSIONS.items():
            content = f"{MODEL} {version}".encode()
            put_blob(http, content)
            more = {"golden": {"file": vectors, "cases": 1, "reference": "cpu"}, "licence": "Apache-2.0"}
            manifest = manifest_of(MODEL, version, content, **more)
            parity = {"cases": 1, "max_abs": 2e-6, "max_rel": 1e-6, "top1_agreement": 1.0, "passed": True}
            manifest["variants"][0] |= {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
                "parity": {"backend": "onnxruntime", "parity": parity},
            }
            http.put(f"/v1/models/{MODEL}/versions/{version}", json=manifest).raise_for_status()
            said = {"variant": "cpu", "dataset": SET, "metric": "accuracy", "value": score, "items": 4}
            answer = http.post(
                f"/v1/models/{MODEL}/versions/{version}/evaluations", json={**said, "backend": "x", "seconds": 1}
            )
            answer.raise_for_status()


@pytest.mark.parametrize(
    "path",
    ["/console/models", AT, f"{AT}/versions/2.0.0", f"{AT}/versions/2.0.0/coverage",
     f"{AT}/versions/2.0.0/difference?from=1.0.0", f"{AT}/versions/2.0.0/evaluations"],
)  # fmt: skip
def test_the_pages_of_models_pass_what_every_page_must(operator: Visit, path: str) -> None:
    operator.check(path)


def test_a_version_says_what_it_is_and_how_good(operator: Visit) -> None:
    page = operator.open("/console/models")
    page.get_by_role("link", name=MODEL, exact=True).click()
    page.get_by_role("link", name="2.0.0", exact=True).click()
    expect(page.get_by_role("region", name="Answers to the golden vectors", exact=True)).to_contain_text("2e-06")
    expect(page.get_by_role("region", name="Scores")).to_contain_text("1.0000")
    expect(page.get_by_role("region", name="What it is")).to_contain_text("Apache-2.0")
    expect(page.locator(".plot canvas")).to_be_visible()
    page.get_by_role("region", name="What it is").locator("dd a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Manifest of {MODEL}@2.0.0")
    expect(page.locator("pre")).to_contain_text('"licence": "Apache-2.0"')


def test_scores_over_versions_are_a_plot_with_a_table(operator: Visit) -> None:
    page = operator.open(AT)
    scores = page.get_by_role("region", name="Scores over versions")
    expect(scores.locator("canvas")).to_be_visible()
    scores.get_by_text("As a table").click()
    for version, score in VERSIONS.items():
        expect(scores.get_by_role("row").filter(has_text=version)).to_contain_text(f"{score:.4f}")


def test_the_difference_of_two_versions_names_the_fields(operator: Visit) -> None:
    page = operator.open(f"{AT}/versions/2.0.0")
    page.locator("select[name=from]").select_option("1.0.0")
    page.get_by_role("region", name="Difference").get_by_role("button").click()
    expect(page.get_by_role("row").filter(has_text="variants.cpu.files.model.onnx.digest")).to_be_visible()


def test_an_alias_is_made_moved_and_removed_and_its_history_stays(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open(f"{AT}/versions/1.0.0")
    page.locator("[name=alias]").fill("stable")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text("stable is 1.0.0 now.").wait_for()
    page.get_by_label("Version of stable").fill("1.1.0")
    page.get_by_role("button", name="Move").click()
    page.get_by_text("stable is 1.1.0 now.").wait_for()
    assert admin.get(f"/v1/models/{MODEL}/aliases/stable").json()["version"] == "1.1.0"
    page.get_by_role("link", name="Remove stable").click()
    page.get_by_role("button", name="Remove").click()
    page.get_by_text("Removed the alias stable.").wait_for()
    operator.open(f"{AT}/aliases/stable")
    expect(page.get_by_role("region", name="History").get_by_role("row")).to_have_count(4)


def test_nobody_moves_an_alias_that_somebody_else_moved(operator: Visit, admin: httpx.Client) -> None:
    path = f"/v1/models/{MODEL}/aliases/fought-for"
    admin.put(path, json={"version": "1.0.0"}, headers={"If-None-Match": "*"}).raise_for_status()
    page = operator.open(AT)
    admin.put(path, json={"version": "1.1.0"}, headers={"If-Match": '"1"'}).raise_for_status()
    page.get_by_label("Version of fought-for").fill("2.0.0")
    operator.allow("status of 412")
    page.get_by_role("button", name="Move").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Precondition Failed")
    assert admin.get(path).json()["version"] == "1.1.0"


def test_a_version_is_yanked_with_a_reason_and_let_go_again(operator: Visit) -> None:
    page = operator.open(f"{AT}/versions/2.0.0")
    page.get_by_role("link", name="Yank").click()
    page.locator("[name=reason]").fill("reads 7 as 1")
    page.get_by_role("button", name="Yank").click()
    expect(page.get_by_text("reads 7 as 1").first).to_be_visible()
    expect(page.get_by_role("link", name="Roll out")).to_have_count(0)
    operator.open(AT)
    expect(page.get_by_role("row").filter(has_text="2.0.0")).to_contain_text("yanked")
    expect(page.locator(".heading")).to_contain_text("newest 1.1.0")
    operator.open(f"{AT}/versions/2.0.0")
    page.get_by_role("link", name="Undo the yank").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("may be deployed again").wait_for()


def test_settings_are_kept_and_what_is_deleted_is_gone(operator: Visit, admin: httpx.Client) -> None:
    page = operator.open(AT)
    page.get_by_label("Record the results").check()
    page.locator("[name=hours]").fill("48")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Results are recorded and kept for 48 hours.").wait_for()
    said = admin.get(f"/v1/models/{MODEL}").json()
    assert (said["record_results"], said["result_retention_hours"]) == (True, 48)
    put_blob(admin, b"gone")
    admin.put("/v1/models/gone/versions/1", json=manifest_of("gone", "1", b"gone")).raise_for_status()
    operator.open("/console/models/gone/versions/1")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("Deleted gone@1.").wait_for()
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("Deleted gone with its versions.").wait_for()
