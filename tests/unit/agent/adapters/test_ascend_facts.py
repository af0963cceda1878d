"""What `npu-smi` prints for each generation of chips, read; see tests/data/npu-smi."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.adapters.facts.accelerators import Run, describe, parse_info, soc_of
from agent.adapters.facts.hardware import with_acl
from agent.adapters.facts.vendor_tool import ToolError
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.platforms import AscendFacts, BackendFacts
from tests.support.paths import DATA

TABLES = {path.stem: path.read_text() for path in (DATA / "npu-smi").glob("*.txt")}
MIB = 1 << 20
ACL = BackendFacts(
    name="ascend_acl", usable=True, formats=(Format.OM,), targets=(Target.ASCEND310,), providers=("Ascend310P3",)
)


def answers(table: str) -> Run:
    def run(arguments: Sequence[str]) -> str:
        if arguments == ["info"]:
            return TABLES[table]
        assert list(arguments) == ["info", "-t", "board", "-i", "0", "-c", "0"]
        return TABLES["A3-board"]

    return run


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("310", ("Ascend310", "310", 2, 7759, "23.0.0")),
        ("310-driver-21.0", ("Ascend310", "310", 1, 8192, "21.0.2")),
        ("310P3-duo", ("Ascend310P3", "310P3", 2, 44280, "24.1.1")),
        ("310B4", ("Ascend310B4", "310B4", 1, 15609, "23.0.rc3")),
        ("910A", ("Ascend910A", "910A", 2, 32768, "23.0.0")),
        ("910B4", ("Ascend910B4", "910B4", 1, 32768, "24.1.rc2")),
        ("910B4-1", ("Ascend910B4-1", "910B4-1", 1, 32768, "24.1.rc2")),
        ("A3", ("Ascend910_9392", "Ascend910", 2, 65536, "25.0.rc1")),
    ],
)
def test_every_generation_of_chips_is_read(table: str, expected: tuple[object, ...]) -> None:
    facts, reason = describe(answers(table))
    memory = (facts.memory_bytes or 0) // MIB
    assert (facts.soc, facts.name, facts.chips, memory, facts.driver) == expected
    assert facts.virtual is False
    assert reason == ""


def test_a_usage_without_a_space_before_the_slash_is_read_too() -> None:
    assert [chip.memory_bytes for chip in parse_info(TABLES["310P3-duo"]).chips] == [44280 * MIB] * 2


def test_the_table_of_processes_is_not_taken_for_chips() -> None:
    assert [(chip.npu, chip.chip) for chip in parse_info(TABLES["310P3-duo"]).chips] == [(2, 0), (2, 1)]


def test_an_alarm_is_told_and_does_not_hide_the_chip() -> None:
    assert parse_info(TABLES["310B4"]).chips[0].health == "Alarm"


@pytest.mark.parametrize("text", [TABLES["broken"], "", "|" * 5000, "| 0 310P3 | OK | 1 |\n" * 3, "\0\x1b[2J"])
def test_what_is_no_table_is_an_error_with_the_tools_own_words(text: str) -> None:
    with pytest.raises(ToolError, match="no chip") as caught:
        parse_info(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_chip_of_the_a3_generation_without_its_board_is_not_guessed() -> None:
    def run(arguments: Sequence[str]) -> str:
        if arguments == ["info"]:
            return TABLES["A3"]
        raise ToolError("npu-smi ended with status 1")

    facts, reason = describe(run)
    assert (facts.soc, facts.chips) == ("", 2)
    assert "status 1" in reason
    assert soc_of("Ascend910", "NPU Name : ") == ""


def test_chips_of_several_kinds_are_told() -> None:
    first, second = TABLES["310"].split("| 0       310   ")[1:]
    facts, reason = describe(lambda _: f"| 0       310   {first}| 1       310P3 {second}")
    assert facts.soc == "Ascend310"
    assert "310, 310P3" in reason


def test_a_slice_of_a_chip_is_virtual() -> None:
    facts, _ = describe(lambda _: TABLES["310P3-duo"].replace("310P3     ", "310P3vir04"))
    assert facts.virtual is True


def test_what_acl_says_counts_more_and_is_there_without_npu_smi() -> None:
    printed = AscendFacts(soc="Ascend310P1", name="310P1", chips=2, virtual=False)
    told = with_acl(printed, (ACL,))
    assert told is not None
    assert (told.soc, told.chips, told.name) == ("Ascend310P3", 2, "310P1")
    alone = with_acl(None, (ACL,))
    assert alone is not None
    assert (alone.soc, alone.chips, alone.virtual) == ("Ascend310P3", 1, None)
    assert with_acl(None, (ACL.model_copy(update={"usable": False}),)) is None
