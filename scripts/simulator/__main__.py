r"""Simulated devices for a registry and a broker that run already, until Ctrl-C.

Each device is the agent's own reconciler over a simulated host: it registers
itself, connects with a session and a will of its own, resolves variants by its
facts, downloads small artifacts for real, goes through probation, rolls back.
What is simulated is said so: the devices have the label simulated=yes, their
backend is called Simulated.

A share of the devices has a fault, which each shows as its label fault=...; the
first version that a device is told to serve succeeds on it all the same, so that
a fleet can be set up. For a version that is bad on every device: --bad.

    scripts/fleet-sim --devices 200 --site paris --slow 0.1 --failing 0.02
    scripts/fleet-sim --devices 1000 --bad 1.1.0=nan --speed 10
    registry rollout create lenet@1.1.0 --fleet simulated=yes \
      --waves 1%,10%,100% --soak 10s --watch
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from registry.client.address import find_address
from registry.client.errors import ClientError
from registry.contracts.topics import DEFAULT_PREFIX
from scripts.simulator.faults import Bad, Faults
from scripts.simulator.platforms import PLATFORMS
from scripts.simulator.world import Settings, World

RATES = {
    "slow": "share of devices whose downloads and loads take twenty times as long",
    "silent": "... that take what they are told and never report again",
    "failing": "... on which no version loads after the first one that they were told to serve",
    "rolling-back": "... on which every such version fails its probation",
    "flapping": "... that lose their connection every few seconds",
    "offline": "... that are away from the beginning",
}
"""Options that are a share of the devices, 0 to 1."""
MAX_DEVICES = 20_000
SAY_EVERY_S = 5.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fleet-sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=100, help=f"how many, at most {MAX_DEVICES} (100)")
    parser.add_argument("--name", default="sim", help="first part of their names (sim)")
    parser.add_argument("--registry", help="its address; default: MODELFLEET_REGISTRY, or this host's")
    parser.add_argument("--token-file", type=Path, help="of a person who may deploy; default: this host's registry's")
    broker = urlsplit(os.environ.get("MODELFLEET_BROKER") or "mqtt://127.0.0.1")
    parser.add_argument(
        "--broker", default=broker.hostname, help="the MQTT broker's host; default: MODELFLEET_BROKER's"
    )
    parser.add_argument("--port", type=int, default=broker.port or 1883)
    parser.add_argument("--prefix", default=DEFAULT_PREFIX)
    parser.add_argument("--site", help="a label site=... for all of them")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second (1)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same faults (1)")
    parser.add_argument("--seconds", type=float, help="end after so long; default: Ctrl-C")
    for rate, meaning in RATES.items():
        parser.add_argument(f"--{rate}", type=float, default=0.0, metavar="SHARE", help=meaning)
    parser.add_argument("--offline-s", type=float, default=86400.0, help="how long the offline ones are away (a day)")
    parser.add_argument(
        "--bad", action="append", default=[], metavar="VERSION=HOW",
        help=f"this version is bad on every device: {', '.join(Bad)} (wrong: only where it has golden vectors)",
    )  # fmt: skip
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    rates = {rate.replace("-", "_"): getattr(options, rate.replace("-", "_")) for rate in RATES}
    if not all(0 <= share <= 1 for share in rates.values()) or sum(rates.values()) > 1:
        raise SystemExit("fleet-sim: shares lie between 0 and 1, and together they are at most 1")
    if not 1 <= options.devices <= MAX_DEVICES or not 0 < options.speed <= 10_000:
        raise SystemExit(f"fleet-sim: 1 to {MAX_DEVICES} devices, a speed up to 10000")
    bad = {}
    for pair in options.bad:
        version, _, how = pair.partition("=")
        if how not in set(Bad):
            raise SystemExit(f"fleet-sim: --bad {pair}: write VERSION=HOW, HOW one of {', '.join(Bad)}")
        bad[version] = Bad(how)
    try:
        address = find_address(options.registry, token_file=options.token_file)
    except ClientError as error:
        raise SystemExit(f"fleet-sim: {error}") from None
    if address.token is None:
        raise SystemExit("fleet-sim: no token; say --token-file FILE")
    return Settings(
        registry=address.url,
        token=address.token,
        broker=options.broker,
        port=options.port,
        prefix=options.prefix,
        speed=options.speed,
        seed=options.seed,
        faults=Faults(**rates, offline_s=options.offline_s, bad=bad),
        labels={"site": options.site} if options.site else {},
    )


def _say(world: World) -> None:
    sent, received, dropped = world.messages
    serving = Counter(
        f"{model}@{place.choice.version}" if place else f"{model}: nothing"
        for device in world.devices.values()
        for model, place in device.data_path.serving.items()
    )
    what = ", ".join(f"{count} {name}" for name, count in sorted(serving.items())) or "nothing deployed"
    lost = f", {dropped} dropped" if dropped else ""
    print(f"{world.now():%H:%M:%S}  {what}  (MQTT: {sent} sent, {received} received{lost})", flush=True)


def main() -> None:
    """Until the time is over."""
    options = _parser().parse_args()
    world = World(_settings(options), PLATFORMS)
    stop = False

    def end(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    try:
        for number in range(options.devices):
            if stop:
                break
            world.add(f"{options.name}-{number:05}").boot()
            world.turn(0.0)
    except ClientError as error:
        world.close()
        raise SystemExit(f"fleet-sim: the registry at {options.registry} does not register devices: {error}") from None
    print(f"{len(world.devices)} simulated devices run", file=sys.stderr)
    deadline = time.monotonic() + (options.seconds or 1e12)
    while not stop and time.monotonic() < deadline:
        world.run_until(lambda: stop, min(SAY_EVERY_S, max(0.0, deadline - time.monotonic())))
        _say(world)
    world.close()


if __name__ == "__main__":
    main()
