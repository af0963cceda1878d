"""What the quick start prints to try next: commands for another terminal, and the file that this terminal sources."""

from __future__ import annotations

import shlex
from pathlib import Path

ENVIRONMENT = "environment"
MODEL, GOOD, BAD = "lenet", "1.0.0", "1.1.0"


def environment_text(*, programs: Path, url: str, data_dir: Path, broker: str) -> str:
    """A file for `.` of a POSIX shell.

    Args:
        programs: The folder of `registry` and `agent`.
        url: The registry's.
        data_dir: The registry's, with the administrator's token.
        broker: Its address as a URL.
    """
    return f"""\
# For a terminal that talks to this quick start: `. {ENVIRONMENT}`. It holds no secret; the registry's data folder does.
export PATH={shlex.quote(str(programs))}:"$PATH"
export MODELFLEET_REGISTRY={shlex.quote(url)}
export MODELFLEET_REGISTRY_DATA_DIR={shlex.quote(str(data_dir))}
export MODELFLEET_BROKER={shlex.quote(broker)}
unset MODELFLEET_TOKEN
"""


def next_steps(
    *, root: Path, folder: Path, console: str, device: str, port: int, picture: Path, mosquitto: bool
) -> str:
    """Sections of commands, each indented by two spaces. A line fits 80 columns where no path is too long for that.

    Args:
        root: The checkout, in which the commands are started.
        folder: The quick start's.
        console: A link that signs in at the registry's pages once.
        device: The agent's name.
        port: The broker's.
        picture: A digit, below the checkout.
        mosquitto: Are mosquitto_pub and mosquitto_sub there?
    """
    there = shlex.quote(str(folder.relative_to(root) if folder.is_relative_to(root) else folder))
    digit = shlex.quote(str(picture.relative_to(root)))
    topic = f"modelfleet/v1/devices/{device}/infer/{MODEL}"
    by_hand = f"""
Over MQTT, without Modelfleet:
  mosquitto_sub -p {port} -V 5 -t reply/me -C 1 -W 20 &
  sleep 1; mosquitto_pub -p {port} -V 5 -D publish response-topic reply/me \\
    -D publish content-type image/png \\
    -t {topic} \\
    -f {digit}
"""
    return f"""\
Everything keeps running until Ctrl-C. Its pages, signed in once within 15
minutes (`registry console` prints another link):

{console}

In another terminal:

  cd {shlex.quote(str(root))}
  . {there}/{ENVIRONMENT}

Look, ask, measure:
  registry devices
  registry show {MODEL}
  registry health {device} --limit 3
  registry ask {device} {MODEL} \\
    --picture {digit}
  registry bench {device} {MODEL} --seconds 5

A bad version: its scores are NaN. Roll it out while requests come, and watch
how it is taken back, by the device or by the rollout, to {GOOD}:
  registry publish {there}/bad/{MODEL}.toml
  registry bench {device} {MODEL} --in-flight 1 --seconds 60 >/dev/null 2>&1 &
  registry rollout create {MODEL}@{BAD} --device {device} \\
    --waves 100% --probation 20s --on-failure rollback --name bad --yes --watch
  registry rollout why {device}
  registry devices

The same in a fleet: 60 simulated devices, first {GOOD}, then the bad version:
  scripts/fleet-sim --devices 60 --site paris --speed 5 \\
    --bad {BAD}=nan --seconds 600 >/dev/null 2>&1 &
  sleep 15
  registry rollout create {MODEL}@{GOOD} --fleet site=paris \\
    --waves 5%,100% --soak 2s --probation 5s --yes --watch
  registry rollout create {MODEL}@{BAD} --fleet site=paris --name worse \\
    --waves 5%,100% --soak 2s --probation 5s --yes --watch
  registry rollout rollback worse --yes --watch
{by_hand if mosquitto else ""}
From Python:
  python -c 'from registry.client.devices import Client; \\
    fleet = Client("mqtt://127.0.0.1:{port}"); \\
    print(fleet.infer("{device}", "{MODEL}", \\
      picture="{picture.relative_to(root)}").label)'
"""
