"""A minimal Debian in a folder, made by debootstrap, and commands in it: chroot in namespaces of their own.

What this host needs to reach packages is carried over when the root is made: apt's sources, pip's configuration and
variables with the folders that they name, the certificates that it trusts. INVARIANT: everything is mounted in the
mount namespace of one command (debootstrap, too, mounts /proc and /sys), and its processes are in a PID namespace of
its own, so both are gone when it ends, whatever ended it; the folder can always be removed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

CHECKOUT = "modelfleet"
"""The folder of the checkout, below a home folder."""
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv*", ".modelfleet", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "dist", "build"
)
CERTIFICATES = Path("/usr/local/share/ca-certificates")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
APART = ["unshare", "--mount-proc", "--pid", "--fork", "--kill-child", "--propagation", "private"]
"""Before a command: it gets a mount namespace and a PID namespace of its own."""
PLAIN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
"""The environment of a command: no locale, no sbin, no HOME unless one is given."""


def carried_variables() -> dict[str, str]:
    """The variables of this host that say how pip finds packages and what TLS trusts."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    proxies = ("http_proxy", "https_proxy", "no_proxy")
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name in names or name.lower() in proxies
    }


def pip_settings() -> dict[str, str]:
    """pip's configuration here, merged from all its files: `global.find-links` and the like."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    pairs = (line.partition("=") for line in lines if not line.startswith(":env:"))
    return {name: value.strip("'").encode().decode("unicode_escape") for name, _, value in pairs}


class DebianRoot:
    """A root folder with git and ca-certificates, nothing else that Debian's smallest variant has not."""

    def __init__(self, suite: str) -> None:
        """Makes it, about half a minute. RuntimeError with debootstrap's words when it cannot."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"modelfleet-{suite}-", dir="/var/tmp"))
        self.root = self.folder / "root"
        argv = [*APART, "debootstrap", "--variant=minbase", "--include=git,ca-certificates", suite, str(self.root)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(argv)}: {done.stdout[-1500:]}{done.stderr[-500:]}")
            self._carry_over(suite)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Nothing is mounted in it, so removing it takes nothing else away."""
        shutil.rmtree(self.folder)

    def run(
        self, *command: str, user: str = "root", home: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs it in the checkout of that user. stdout has both streams."""
        folder = f"/{'root' if user == 'root' else f'home/{user}'}/{CHECKOUT}"
        variables = {**self.variables, **({"HOME": home} if home else {}), **env}
        return subprocess.run(
            self.argv(*command, user=user, folder=folder, **variables),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=900, check=False,
        )  # fmt: skip

    def argv(self, *command: str, user: str = "root", folder: str = "/", **env: str) -> list[str]:
        """The command of this host that runs one in the root. SIGKILL ends both; `unshare` ignores SIGTERM."""
        switch = "" if user == "root" else f"setpriv --reuid={user} --regid={user} --init-groups "
        plain = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in {**PLAIN, **env}.items())])
        inside = f"cd {folder} && exec {switch}{plain} {shlex.join(command)}"
        # The shell stays, as the namespace's first process: it takes care of orphans, and programs get their signals.
        return [*APART, "sh", "-euc", self._mounts() + f"chroot {self.root} sh -c {shlex.quote(inside)}; exit $?"]

    def add_checkout(self, user: str = "root") -> None:
        """A copy of this checkout, without what was made in it, in the home of a user that is made for it."""
        target = self.root / ("root" if user == "root" else f"home/{user}") / CHECKOUT
        if user != "root":
            subprocess.run(["chroot", self.root, "/usr/sbin/useradd", "-m", user], check=True, timeout=60)
        shutil.copytree(ROOT, target, symlinks=True, ignore=NOT_COPIED)
        if user != "root":
            owner = target.parent.stat()
            for path in (target, *target.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _mounts(self) -> str:
        root = self.root
        lines = [f"mount -t proc proc {root}/proc", f"mount --rbind /sys {root}/sys", f"mount --rbind /dev {root}/dev"]
        lines += [f"mount --bind {path} {root}{path}" for path in self._shared]
        return "".join(f"{line}\n" for line in lines)

    def _carry_over(self, suite: str) -> None:
        for name in ("hosts", "resolv.conf"):
            shutil.copy(f"/etc/{name}", self.root / "etc" / name)
        settings, self.variables = pip_settings(), carried_variables()
        sections: dict[str, list[str]] = {}
        for name, value in settings.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, []).append(f"{key} = " + value.strip().replace("\n", "\n    "))
        text = "".join(f"[{section}]\n" + "\n".join(keys) + "\n" for section, keys in sections.items())
        (self.root / "etc" / "pip.conf").write_text(text)
        named = " ".join((*settings.values(), *self.variables.values()))
        self._shared = sorted({path for path in _named(named) if path not in (BUNDLE, BUNDLE.parent)})
        for path in self._shared:
            inside = self.root / path.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.mkdir(exist_ok=True) if path.is_dir() else inside.touch()
        self._carry_apt(suite)
        if CERTIFICATES.is_dir():
            shutil.copytree(CERTIFICATES, self.root / CERTIFICATES.relative_to("/"), dirs_exist_ok=True)
            subprocess.run(
                ["chroot", self.root, "/usr/sbin/update-ca-certificates"], check=True, capture_output=True, timeout=120
            )

    def _carry_apt(self, suite: str) -> None:
        """This host's sources where they are of this suite; else those that debootstrap wrote, from the same mirror."""
        here = Path("/etc/apt")
        sources = [here / "sources.list", *here.glob("sources.list.d/*.list"), *here.glob("sources.list.d/*.sources")]
        there = self.root / "etc" / "apt"
        found = [path for path in sources if path.is_file() and re.search(rf"\b{suite}\b", path.read_text())]
        for path in found:
            shutil.copy(path, there / path.relative_to(here))
        if found:
            (there / "sources.list").unlink(missing_ok=True)
        for path in (here / "apt.conf.d").iterdir():
            if "Acquire::" in path.read_text():
                shutil.copy(path, there / "apt.conf.d")


def _named(text: str) -> Iterator[Path]:
    """The folders and files of this host that some settings name, bare or as file: URLs."""
    for word in text.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            yield path.parent if path.name == "simple" else path  # an index: its packages lie beside it
