"""Every operation of the HTTP API once, asked of a real registry: what docs/http.md shows as examples.

The requests follow each other as somebody's would who publishes versions, adds a device and rolls out. The device is
this program: it sends what an agent would send. INVARIANT: what is kept names no time, digest, id or token of the run.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from registry.contracts.catalogue.manifest import Variant
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "reference" / "http-examples.json"
MODEL_FILE = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"
FACTS = ROOT / "tests" / "contracts" / "golden" / "v1" / "platform.json"
START_S = 60.0
NOT_ASKED = {
    "GET /v1/rollout-events": "A stream that does not end: docs/rollouts.md.",
    "POST /v1/approvals/{change}": "Only where two people are asked for: docs/operations.md.",
}
"""Operations without an example, each with the reason."""
STEADY: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)", "2026-11-28T12:00:00Z"),
    (r"mf_[\w-]{20,}", "mf_SECRET"),
    (r"whsec_[\w-]+", "whsec_SECRET"),
    (r"(?<=\"days_left\":)[0-9.]+", "7.0"),
    (r"(?<=\"folder\":\")[^\"]*", "/var/lib/modelfleet/keys"),
    (r"\b[0-9a-f]{64}\b", "0123456789abcdef" * 4),
    (r"\br-[0-9a-f]{12}\b", "r-0123456789ab"),
    (r"\b(convert|evaluate)-[0-9a-f]{12}\b", r"\1-0123456789ab"),
    (r"\b[0-9a-f]{32}\b", "0123456789abcdef" * 2),
    (r"\b(?=[a-f]*\d)[0-9a-f]{12}\b", "0123456789ab"),
    (r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8470"),
    (r"(?<=link=|code=)[\w-]{20,}", "SECRET"),
)
"""What differs from run to run, and what stands for it."""


def steady(text: str) -> str:
    """Without what differs from run to run."""
    for pattern, word in STEADY:
        text = re.sub(pattern, word, text)
    return text


def _shortened(value: Any) -> Any:
    """Signed metadata (TUF) only by their kind: they are long, and their form is not this API's."""
    if isinstance(value, dict):
        if set(value) == {"signatures", "signed"}:
            return {"signatures": [], "signed": {"_type": value["signed"]["_type"]}}
        return {key: _shortened(each) for key, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list) else value


class Recorder:
    """Asks, and keeps request and answer of the first time that an operation is asked."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
        )
        self.kept: dict[str, dict[str, Any]] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: str = "",
        token: str = "",
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        **names: str,
    ) -> Any:
        """The answer's document; `path` has the names of the API's own template."""
        given = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        address = path.format(**names) + query
        sent: dict[str, Any] = {"json": body} if body is not None else {"content": content}
        answer = self._client.request(method, address, headers=given, **sent)
        is_json = bool(answer.content) and "json" in answer.headers.get("content-type", "")
        given_body = _shortened(json.loads(steady(json.dumps(body))))
        example = {
            "request": f"{method} {steady(address)}",
            "headers": headers or {},
            "body": f"{len(content)} bytes" if content is not None else given_body,
            "status": answer.status_code,
            "answer": _shortened(json.loads(steady(answer.text))) if is_json else f"{len(answer.content)} bytes",
        }
        self.kept.setdefault(f"{method} {path}", example)
        if answer.is_error:
            raise RuntimeError(f"{method} {address}: {answer.status_code} {answer.text}")
        return answer.json() if is_json else answer.content

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()

    def until(self, ask: Callable[[], bool]) -> None:
        """Waits for the registry's own work, half a minute at most."""
        deadline = time.monotonic() + 30
        while not ask():
            if time.monotonic() > deadline:
                raise RuntimeError("the registry did not come to the state that an example needs")
            time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def record() -> dict[str, dict[str, Any]]:
    """Operation, as `GET /v1/models`, to its example. RuntimeError where one is refused."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        argv = [Path(sys.executable).parent / "registry", "serve", "--port", str(port), "--data-dir", folder]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            token = Path(folder, "admin.token")
            deadline = time.monotonic() + START_S
            while not (token.exists() and _listens(port)):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError("the registry did not start")
                time.sleep(0.1)
            recorder = Recorder(f"http://127.0.0.1:{port}", token.read_text().strip())
            try:
                _ask_everything(recorder)
            finally:
                recorder.close()
        finally:
            server.terminate()
            server.wait(timeout=30)
    return dict(sorted(recorder.kept.items(), key=lambda item: item[0].split()[::-1]))


def _ask_everything(r: Recorder) -> None:
    r.ask("GET", "/v1/about")
    r.ask("GET", "/v1/approvals")
    r.ask("POST", "/v1/console-links")
    r.ask("POST", "/v1/tokens", {"name": "ci", "scope": "publish"})
    r.ask("GET", "/v1/tokens")
    r.ask("DELETE", "/v1/tokens/{name}", name="ci")
    variant = _publish(r)
    token = _add_device(r)
    _evaluate(r)
    _deploy(r, token, variant)
    _roll_out(r)
    _hooks(r)
    _remove(r)


def _upload(r: Recorder, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    view = r.ask("POST", "/v1/uploads", {"digest": digest, "size": len(data)})
    if not view["complete"]:
        r.ask("GET", "/v1/uploads/{upload}", upload=view["id"])
        r.ask("PATCH", "/v1/uploads/{upload}", content=data, headers={"Upload-Offset": "0"}, upload=view["id"])
    return digest


def _publish(r: Recorder) -> dict[str, Any]:
    data = MODEL_FILE.read_bytes()
    digest = _upload(r, data)
    other = r.ask("POST", "/v1/uploads", {"digest": "sha256:" + "e" * 64, "size": 1000})
    r.ask("GET", "/v1/uploads")
    r.ask("DELETE", "/v1/uploads/{upload}", upload=other["id"])
    r.ask("HEAD", "/v1/blobs/{digest}", digest=digest)
    r.ask("GET", "/v1/blobs/{digest}", digest=digest)
    file = {"path": "lenet.onnx", "digest": digest, "size": len(data)}
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        variant = {
            "name": "onnx-cpu",
            "format": "onnx",
            "target": "cpu",
            "entry": "lenet.onnx",
            "files": [file],
            **signature,
        }
        manifest = {"model": "lenet", "version": version, "variants": [variant]}
        about = {"model": "lenet", "version": version}
        r.ask("PUT", "/v1/models/{model}/versions/{version}", manifest, **about)
    old = {**manifest, "model": "old", "version": "1.0.0"}
    r.ask("PUT", "/v1/models/{model}/versions/{version}", old, model="old", version="1.0.0")
    r.ask("DELETE", "/v1/models/{model}", model="old")
    r.ask("GET", "/v1/models")
    r.ask("GET", "/v1/models/{model}", model="lenet")
    r.ask("PATCH", "/v1/models/{model}", {"record_results": True, "result_retention_hours": 24}, model="lenet")
    r.ask("GET", "/v1/models/{model}/versions", model="lenet")
    view = r.ask("GET", "/v1/models/{model}/versions/{version}", model="lenet", version="1.0.0")
    r.ask("GET", "/v1/manifests/{digest}", digest=view["manifest"])
    stable = {"model": "lenet", "alias": "stable"}
    new = {"If-None-Match": "*"}
    r.ask("PUT", "/v1/models/{model}/aliases/{alias}", {"version": "1.0.0"}, headers=new, **stable)
    r.ask("GET", "/v1/models/{model}/aliases", model="lenet")
    r.ask("GET", "/v1/models/{model}/aliases/{alias}", **stable)
    r.ask("GET", "/v1/models/{model}/aliases/{alias}/history", **stable)
    r.ask("DELETE", "/v1/models/{model}/aliases/{alias}", **stable)
    offer = _converted(variant, "onnx-gpu", target="gpu")
    path = "/v1/models/{model}/versions/{version}/variants/{variant}"
    r.ask("PUT", path, {"variant": offer}, model="lenet", version="1.2.0", variant="onnx-gpu")
    yank = {"model": "lenet", "version": "1.2.0"}
    r.ask("PUT", "/v1/models/{model}/versions/{version}/yank", {"reason": "wrong labels"}, **yank)
    r.ask("DELETE", "/v1/models/{model}/versions/{version}/yank", **yank)
    return variant


def _converted(parent: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """A variant as a conversion adds it."""
    build = {"parent": Variant.model_validate(parent).canonical_digest(), "tool": "onnxruntime-quantize"}
    return {**parent, "name": name, "build": build, **more}


def _add_device(r: Recorder) -> str:
    created = r.ask("PUT", "/v1/devices/{device}", {"labels": {"site": "paris"}}, device="edge-1")
    rotated = r.ask("POST", "/v1/devices/{device}/credential", device="edge-1")
    token = str(rotated.get("token") or created.get("token"))
    facts = json.loads(FACTS.read_text())
    r.ask("PUT", "/v1/devices/{device}/facts", facts, token=token, device="edge-1")
    r.ask("POST", "/v1/resolve", {"model": "lenet", "version": "1.0.0", "facts": facts})
    r.ask("POST", "/v1/labels", {"devices": ["edge-1"], "put": {"ring": "canary"}})
    r.ask("GET", "/v1/labels")
    r.ask("PUT", "/v1/groups/{group}", {"selector": "site=paris", "note": "the first hall"}, group="kiosks")
    r.ask("GET", "/v1/groups")
    r.ask("GET", "/v1/groups/{group}", group="kiosks")
    return token


def _evaluate(r: Recorder) -> None:
    pictures = Tensor(Datatype.FP32, (2, 1, 28, 28), bytes(2 * 28 * 28 * 4))
    data = write_tensors({"in/x": pictures, "labels": Tensor(Datatype.INT64, (2,), bytes(2 * 8))})
    digest = _upload(r, data)
    r.ask("PUT", "/v1/datasets/{name}", {"digest": digest, "size": len(data)}, name="digits")
    r.ask("GET", "/v1/datasets")
    r.ask("GET", "/v1/datasets/{name}", name="digits")
    score = {
        "variant": "onnx-cpu", "dataset": "digits", "metric": "accuracy", "value": 0.98, "items": 397,
        "backend": "onnxruntime/CPUExecutionProvider", "seconds": 1.5,
    }  # fmt: skip
    about = {"model": "lenet", "version": "1.0.0"}
    r.ask("POST", "/v1/models/{model}/versions/{version}/evaluations", score, **about)
    r.ask("GET", "/v1/models/{model}/versions/{version}/evaluations", **about)
    r.ask("GET", "/v1/models/{model}/versions/{version}/parity", **about)
    r.ask("GET", "/v1/models/{model}/versions/{version}/coverage", **about)


def _deploy(r: Recorder, token: str, variant: dict[str, Any]) -> None:
    about = {"device": "edge-1", "model": "lenet"}
    r.ask("PUT", "/v1/devices/{device}/deployments/{model}", {"version": "1.0.0"}, **about)
    r.ask("GET", "/v1/devices/{device}/deployments", device="edge-1")
    r.ask("GET", "/v1/devices/{device}/desired", token=token, device="edge-1")
    job = {"device": "edge-1", "kind": "convert", "model": "lenet", "version": "1.0.0", "to": "onnx"}
    made = r.ask("POST", "/v1/jobs", job)
    r.ask("GET", "/v1/jobs")
    r.ask("GET", "/v1/jobs/{job}", job=made["id"])
    offer = _converted(variant, "onnx-int8")
    offer["build"]["built_on"] = "edge-1"
    r.ask("PUT", "/v1/jobs/{job}/variant", {"variant": offer}, token=token, job=made["id"])
    r.ask("DELETE", "/v1/jobs/{job}", job=r.ask("POST", "/v1/jobs", {**job, "version": "1.1.0"})["id"])
    at = "2026-11-22T12:00:00Z"
    session = {"device": "edge-1", "session_id": "s1", "at": at}
    served = {"requests": 1000, "version": "1.0.0", "latency_us": {"p50": 250.0, "p99": 410.5}}
    reports = {
        "health": [{**session, "seq": 1, "uptime_s": 61.5, "window_s": 30.0, "models": {"lenet": served}}],
        "events": [{"event_id": "e1", "seq": 1, "at": at, "kind": "deployment", "model": "lenet", "phase": "offered"}],
    }
    r.ask("POST", "/v1/devices/{device}/reports", reports, token=token, device="edge-1")
    r.ask("GET", "/v1/devices", query="?selector=site%3Dparis")
    for part in ("", "/health", "/health/hours", "/events"):
        r.ask("GET", "/v1/devices/{device}" + part, device="edge-1")
    question = "?model=lenet&version=1.0.0"
    r.ask("GET", "/v1/devices/{device}/resolution", query=question, device="edge-1")
    r.ask("GET", "/v1/events", query="?device=edge-1")
    r.ask("GET", "/v1/trust/{repository}/{name}", repository="image", name="timestamp.json")
    role = r.ask("GET", "/v1/trust/{repository}/{name}", repository="image", name="model-lenet.json")
    r.ask("POST", "/v1/trust/files", {"files": [{"repository": "image", "role": "model-lenet", "metadata": role}]})
    r.ask("POST", "/v1/trust/changes", {"kind": "renew", "repository": "director", "role": "root"})
    for path in ("/v1/trust", "/v1/fleet", "/v1/events", "/v1/counts", "/v1/results", "/v1/diagnosis", "/v1/disk"):
        r.ask("GET", path)

    def summed() -> bool:
        r.kept.pop("GET /v1/health/series", None)
        return bool(r.ask("GET", "/v1/health/series", query="?span=1h")["by"])

    r.until(summed)
    r.ask("GET", "/v1/models/{model}/adoption", query="?days=1", model="lenet")


def _roll_out(r: Recorder) -> None:
    spec = {"name": "kiosks-7", "model": "lenet", "version": "1.1.0", "fleet": {"selector": "site=paris"}}
    r.ask("POST", "/v1/rollout-plans", spec)
    r.ask("POST", "/v1/rollouts", {**spec, "requires_approval": True, "approved_by_another": False})
    r.ask("GET", "/v1/rollouts")
    about = {"rollout": "kiosks-7"}

    def view() -> Any:
        return r.ask("GET", "/v1/rollouts/{rollout}", **about)

    command = "/v1/rollouts/{rollout}/commands"
    r.ask("POST", command, {"command": "submit", "revision": view()["revision"]}, **about)
    r.until(lambda: view()["state"] == "awaiting_approval")
    planned = r.ask("GET", "/v1/rollouts/{rollout}/plan", **about)
    approval = {"plan": planned["digest"], "revision": view()["revision"], "note": "after the show"}
    r.ask("POST", "/v1/rollouts/{rollout}/approval", approval, **about)
    r.ask("GET", "/v1/rollouts/{rollout}/devices", **about)
    r.ask("GET", "/v1/rollouts/{rollout}/devices/{device}", device="edge-1", **about)
    r.ask("GET", "/v1/rollouts/{rollout}/history", **about)
    r.ask("PUT", "/v1/rollouts/{rollout}", {**spec, "name": "kiosks-8"}, rollout="kiosks-8")


def _hooks(r: Recorder) -> None:
    r.ask("PUT", "/v1/webhooks/{name}", {"url": "https://example.com/hook"}, name="chat")
    r.ask("GET", "/v1/webhooks")
    r.ask("GET", "/v1/webhooks/{name}", name="chat")
    r.ask("DELETE", "/v1/webhooks/{name}", name="chat")


def _remove(r: Recorder) -> None:
    r.ask("DELETE", "/v1/groups/{group}", group="kiosks")
    r.ask("DELETE", "/v1/datasets/{name}", name="digits")
    r.ask("DELETE", "/v1/devices/{device}/deployments/{model}", device="edge-1", model="lenet")
    r.ask("DELETE", "/v1/models/{model}/versions/{version}", model="lenet", version="1.2.0")
    r.ask("DELETE", "/v1/devices/{device}", device="edge-1")
