"""Runs the backend cases of the `onnx` wheel through a real fleet and says which are not answered, and why."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.onnx_cases.cases import all_cases
from scripts.onnx_cases.fleet import CaseFleet, Outcome
from scripts.onnx_cases.report import write_report


def main() -> int:
    """The command line; exit code 1 when a case that requests can carry is not answered."""
    parser = argparse.ArgumentParser(prog="scripts/onnx-cases", description=__doc__)
    parser.add_argument("--match", default="", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth case")
    parser.add_argument("--inline", action="store_true", help="run the models in the agent's process: quicker")
    parser.add_argument("--at-once", type=int, default=6, metavar="N", help="cases under way at the same time")
    parser.add_argument("--trial", action="store_true", help="publish with the command's trial request: slower")
    parser.add_argument(
        "--report", action="store_true", help="write docs/reference/onnx-backend-cases.md: needs all cases"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    options = parser.parse_args()
    cases = [case for case in all_cases() if re.search(options.match, case.name)][:: options.every]
    print(f"{len(cases)} cases", file=sys.stderr)
    begin, done = time.monotonic(), 0

    def told(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if outcome.stage and outcome.stage != "carried":
            print(f"{outcome.case}: {outcome.stage} {outcome.code}: {outcome.reason}", flush=True)
        if done % 50 == 0:
            print(f"{done} of {len(cases)} after {time.monotonic() - begin:.0f} s", file=sys.stderr)

    with (
        TemporaryDirectory(prefix="onnx-cases-") as folder,
        CaseFleet(Path(folder), at_once=options.at_once, trial=options.trial) as fleet,
    ):
        outcomes = fleet.run(cases, told, inline=lambda _: options.inline)
    if options.json is not None:
        options.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    if options.report:
        write_report(outcomes)
    counted = Counter(outcome.stage or "right" for outcome in outcomes)
    print(f"{len(outcomes)} cases in {time.monotonic() - begin:.0f} s: {dict(counted)}")
    return int(any(outcome.stage not in ("", "carried") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
