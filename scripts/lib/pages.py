"""Pages whose commands can be run as they are printed, and whose printed output is compared with the real one.

A fenced block in the language `console` holds commands, each after `$ `, and below each what it prints. A command goes
on in the next lines until the shell has all of it. What a page needs to be run stands in a comment above a block, which
no reader sees. A block in the language `sh` is commands only, and what they print is not compared:

    <!-- run: terminal=NAME -->    in another terminal than `main`; every terminal is one shell, from its first block on
    <!-- run: stays -->            the last command does not end; it goes on when it printed what is shown
    <!-- run: stays=TEXT -->       when it printed this text
    <!-- run: any -->              nothing needed: a block in `sh`, which is run only if it has such a comment
    <!-- run: until -->            the last command is repeated until it prints what is shown
    <!-- run: file=NAME -->        the block, in any language, is the content of this file
    <!-- run: python=NAME -->      the block is a program for this interpreter, and prints nothing that is shown
    <!-- run: fresh -->            only on a machine on which nothing is installed (`fresh`)
    <!-- run: exit=N -->           the last command ends with this code; all others with 0
    <!-- run: no, REASON -->       never

A line `...` in what is shown stands for any lines, and within a line for any text. `PATTERNS` says what may differ
besides.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PATTERNS: tuple[tuple[str, str], ...] = (
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d| ?[A-Z]{3,4}\b)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d(?:\.\d+)?(?: [A-Z]{3,4}\b)?", "CLOCK"),
    (r"\bmf_[\w-]{20,}", "TOKEN"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"\b(?:r-)?(?=[a-f]*\d)[0-9a-f]{12}\b", "ID"),
    (r"(?:/(?:tmp|dev/shm|var/tmp)(?:/[\w.-]+)+)?/(?:home/[\w.-]+|root)(?=[/\s]|$)", "HOME"),
    (r"\b\d+(?:\.\d+)? ?(?:us|ms|s|min|h|d)(?: ago)?\b", "DURATION"),
    (r"\b\d+(?:\.\d+)? (?:B|kB|MB|GB|KiB|MiB|GiB)(?:/s)?(?![\w])", "SIZE"),
    (r"\b\d+ CPUs?\b", "CPUS"),
    (r"\bx86_64\b|\baarch64\b", "PROCESSOR"),
    (r"\bonnxruntime \d+\.\d+\.\d+", "onnxruntime VERSION"),
    (r"\bmodelfleet \d+\.\d+\.\d+", "modelfleet VERSION"),
    (r"\[\d+\](?: \d+)?", "PROCESS"),
    (r"  +", " "),
)
"""What may differ between what a page shows and what comes: an expression, and what stands for it on both sides."""
COMMAND_S, STAYS_S = 240.0, 90.0
"""So long a command may take, and one that stays until it printed what is shown."""
_FENCE = re.compile(
    r"(?:^<!-- run: (?P<run>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HERE = re.compile(r"<<-?\s*'?(\w+)'?")


class PageError(AssertionError):
    """A command of a page failed, or printed something else than the page shows."""


@dataclass
class Step:
    """One command and what is shown below it."""

    command: str
    shown: list[str] = field(default_factory=list)


@dataclass
class Block:
    """A fenced block that is run or written."""

    line: int
    language: str
    text: str
    span: tuple[int, int]
    """Of `text` in the page."""
    options: dict[str, str]

    @property
    def steps(self) -> list[Step]:
        """The commands of a block in the languages `console` and `sh`."""
        found: list[Step] = []
        for line in self.text.splitlines():
            if found and not _is_whole(found[-1].command):
                found[-1].command += "\n" + line
            elif self.language == "sh":
                found.append(Step(line, ["..."]))
            elif line.startswith("$ "):
                found.append(Step(line[2:]))
            elif found:
                found[-1].shown.append(line)
            else:
                raise PageError(f"line {self.line}: a console block begins with `$ `")
        return found


def _is_whole(command: str) -> bool:
    """Does the shell wait for no further line?"""
    here = _HERE.findall(command)
    if command.endswith("\\") or (here and here[-1] not in command.splitlines()[1:]):
        return False
    return not subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode


def blocks(page: str) -> list[Block]:
    """Every block of a page that can be run, in order."""
    found = []
    for match in _FENCE.finditer(page):
        words = [word.strip() for word in (match["run"] or "").split(",")]
        options = dict(word.partition("=")[::2] for word in words if word)
        if match["language"] == "console" or options:
            line = page.count("\n", 0, match.start("text")) + 1
            found.append(Block(line, match["language"], match["text"], match.span("text"), options))
    return found


def canonical(text: str) -> str:
    """With what may differ replaced, line by line."""
    for pattern, word in PATTERNS:
        text = re.sub(pattern, word, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))


def matches(shown: Sequence[str], printed: str, *, begins: bool = False) -> bool:
    """Is it what the page shows? `begins`: more may follow."""
    parts = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line).replace(re.escape("..."), ".*") + "\n"
        for line in canonical("\n".join(shown)).split("\n")
    ]
    whole = "".join(parts) if any(line.strip() for line in shown) else r"\n?"
    text = canonical(printed) + "\n"
    return bool(re.match(whole, text) if begins else re.fullmatch(whole, text))


class Terminal:
    """One shell, whose commands come one after the other.

    Args:
        argv: Starts bash, reading commands from the file descriptor that is appended as `/dev/fd/N`.
        env: Its whole environment.
        cwd: Where it begins.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self._shell = subprocess.Popen(
            [*argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=cwd, env=dict(env), start_new_session=True,
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        assert self._shell.stdout is not None
        self._selector.register(self._shell.stdout, selectors.EVENT_READ)

    def run(self, command: str, seconds: float = COMMAND_S) -> tuple[str, int]:
        """What it printed, and its exit code. PageError where it does not end in time."""
        mark = secrets.token_hex(12)
        self._send(f"{{ {command}\n}} </dev/null\nprintf '\\n{mark} %s\\n' $?\n")
        text = self._read(lambda text: re.search(rf"^{mark} \d+$", text, re.MULTILINE) is not None, seconds, command)
        printed, _, code = text.partition(f"\n{mark} ")
        return printed, int(code)

    def start(self, command: str, shown: Sequence[str], seconds: float = STAYS_S) -> str:
        """Starts what stays, and waits until it printed what is shown; what it printed by then."""
        self._send(f"{{ {command}\n}} </dev/null\n")
        return self._read(lambda text: matches(shown, text, begins=True), seconds, command) if shown else ""

    def close(self) -> None:
        """Ends the shell and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._shell.pid, number)
                self._shell.wait(timeout=5)
        self._selector.close()
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        self._shell.stdin.flush()

    def _read(self, done: object, seconds: float, command: str) -> str:
        text, deadline = "", time.monotonic() + seconds
        assert callable(done)
        assert self._shell.stdout is not None
        while not done(text):
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise PageError(f"$ {command}\nis not where the page says after {seconds:.0f} s; it printed:\n{text}")
            more = os.read(self._shell.stdout.fileno(), 65536).decode(errors="replace")
            if not more:
                raise PageError(f"$ {command}\nended its shell; it printed:\n{text}")
            text += more
        return text


class Runner:
    """Runs the blocks of one page.

    Args:
        page: The file.
        shell: Starts bash for the user of that name, empty for the usual one.
        env: Of every terminal.
        cwd: Where every terminal begins.
        fresh: Run the blocks that install, too.
    """

    def __init__(
        self, page: Path, shell: Mapping[str, Sequence[str]], env: Mapping[str, str], cwd: Path, *, fresh: bool = False
    ) -> None:
        self.page, self.text = page, page.read_text()
        self._shell, self._env, self._cwd, self._fresh = shell, env, cwd, fresh
        self._terminals: dict[str, Terminal] = {}
        self.printed: list[tuple[Block, list[Step]]] = []
        """What really came, for `rewritten`."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def faults(self) -> Iterator[str]:
        """Runs every block up to the first command that fails; a text for it and each that printed something else."""
        for block in blocks(self.text):
            if "no" in block.options or ("fresh" in block.options and not self._fresh):
                continue
            terminal = self._terminal(block.options)
            try:
                yield from self._block(block, terminal)
            except PageError as fault:
                yield f"{self.page.name}:{block.line}: {fault}"
                return

    def _block(self, block: Block, terminal: Terminal) -> Iterator[str]:
        if "file" in block.options:
            self._checked(terminal, f"cat > {block.options['file']} <<'END OF FILE'\n{block.text}END OF FILE", 0)
        elif "python" in block.options:
            self._checked(terminal, f"{block.options['python']} - <<'END OF FILE'\n{block.text}END OF FILE", 0)
        else:
            yield from self._console(block, terminal)

    def _terminal(self, options: Mapping[str, str]) -> Terminal:
        name = options.get("terminal", "main")
        if name not in self._terminals:
            argv = self._shell[name if name in self._shell else ""]
            self._terminals[name] = Terminal(argv, self._env, self._cwd)
        return self._terminals[name]

    def _checked(self, terminal: Terminal, command: str, expected: int) -> str:
        printed, code = terminal.run(command)
        if code != expected:
            raise PageError(f"$ {command}\nended with {code}:\n{printed}")
        return printed

    def _console(self, block: Block, terminal: Terminal) -> Iterator[str]:
        steps, came = block.steps, []
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            if last and "stays" in block.options:
                text = block.options["stays"]
                printed = terminal.start(step.command, ["...", f"...{text}..."] if text else step.shown)
            else:
                expected = int(block.options.get("exit", 0)) if last else 0
                printed = self._checked(terminal, step.command, expected)
                deadline = time.monotonic() + STAYS_S
                while last and "until" in block.options and not matches(step.shown, printed):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.5)
                    printed = self._checked(terminal, step.command, expected)
                if not matches(step.shown, printed):
                    shown = "\n".join(step.shown)
                    yield f"{self.page.name}:{block.line}: $ {step.command}\nshown:\n{shown}\nprinted:\n{printed}"
                    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
                    came.append(Step(step.command, lines))
                    continue
            came.append(step)
        self.printed.append((block, came))

    def rewritten(self) -> str:
        """The page with what really came, where that was something else."""
        text = self.text
        for block, steps in reversed(self.printed):
            lines = (["$ " + step.command, *step.shown] for step in steps)
            begin, end = block.span
            text = text[:begin] + "".join(f"{line}\n" for step in lines for line in step) + text[end:]
        home = self._env.get("HOME", "")
        return text.replace(home, "/home/ada") if len(home) > 1 else text
