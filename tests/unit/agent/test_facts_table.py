"""Facts as people and programs see them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from agent.app.doctor import fact_documents, fact_lines
from registry.contracts.fit.platforms import AscendFacts, CudaFacts, Evidence, Platform

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
HOST = Platform(
    os="linux", arch="aarch64", memory_bytes=8 << 30, ascend=AscendFacts(soc="Ascend310P3", chips=1), cuda=CudaFacts(),
    observed_at=NOW,
    evidence={
        "ascend": Evidence(source="npu-smi info", observed_at=NOW - timedelta(hours=5), reason="the driver is silent"),
        "ascend.soc": Evidence(source="acl.get_soc_name", observed_at=NOW - timedelta(days=2)),
        "cuda": Evidence(source="NVML", observed_at=NOW, reason="no NVIDIA GPU"),
    },
)  # fmt: skip


def test_each_fact_has_its_own_source_and_age() -> None:
    rows = {row["name"]: row for row in fact_documents(HOST, NOW)}
    assert (rows["ascend.soc"]["source"], rows["ascend.soc"]["age_s"]) == ("acl.get_soc_name", 2 * 86400)
    assert (rows["ascend.driver"]["source"], rows["ascend.driver"]["age_s"]) == ("npu-smi info", 5 * 3600)
    assert rows["ascend.driver"]["reason"] == "the driver is silent"


def test_a_no_stands_with_its_reason_once() -> None:
    text = "\n".join(fact_lines(HOST, NOW))
    assert text.count("no NVIDIA GPU") == 1
    assert "cuda.driver" not in text
    assert "8.0 GiB" in text
    assert "2 d" in text
