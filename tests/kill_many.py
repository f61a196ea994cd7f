"""Kills `generate`, `eval` and `train` at random moments and proves that nothing was lost.

    python tests/kill_many.py [--kills 50] [--runs 5] [--cuts 10] [--disks 6] [--pairs 6] [WORK ...]

Four kinds of trouble, each against the same command undisturbed:

- kills: kill -9 at random times, again and again, until the command ends; of a work of several
  ranks one is killed, and the others a moment later.
- cuts: a kill, and what a power failure leaves of the file that was being written: a torn or blank
  piece behind its end, which must cost nothing, or its end gone or overwritten.
- disks: the disk is full at several sizes (a small tmpfs of its own); then there is room.
- pairs: two processes begin on one folder.

In the end exports, tables and weights are those of the undisturbed run; questions that were
finished are not asked again, by the log of the server; what is told of tokens holds what it served,
and no less; nothing prints a traceback. The models of
`generate` and `eval` are scripted, behind a real server; `train` trains the bundled one.

Commands are forked from this process, which has loaded the package: kills meet the work, not the
imports. pytest runs a short form (tests/search/test_kill.py).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_works import Work, build_works
from scripted_server import scripted_server
from scripted_world import corpus, write_corpus

from agenticlu.cli import main as agenticlu

MOST_S = 120.0
"""A command that takes longer hangs."""


@dataclass
class Process:
    """A command of ours, forked; once for each rank."""

    pids: list[int]
    """Of those that have not ended."""
    folder: Path
    """Holds its output."""
    codes: list[int] = field(default_factory=list)
    """Of those that have ended, in the order of their ends."""

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text("utf-8", "replace")

    def wait(self, kill_after_s: float | None = None) -> int:
        """Waits for the end, or kills; returns the first exit code, negative for a signal."""
        began = time.monotonic()
        while self.pids:
            passed = time.monotonic() - began
            if kill_after_s is not None and passed >= kill_after_s:
                random.shuffle(self.pids)
                for pid in self.pids:
                    os.kill(pid, signal.SIGKILL)
                    # The next one meets a rank that is gone, for a moment, before it follows.
                    time.sleep(random.uniform(0, 0.05) * (len(self.pids) > 1))
                kill_after_s = None
            for pid in list(self.pids):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.pids.remove(pid)
                    self.codes.append(os.waitstatus_to_exitcode(status))
            assert passed < MOST_S, f"it hangs: {self.errors[-2000:]}"
            time.sleep(0.002)
        assert "Traceback (most recent call last)" not in self.errors, self.errors[-4000:]
        return self.codes[0]


def start(arguments: list[str], folder: Path, ranks: int = 1) -> Process:
    """Forks and runs a command line in the children."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (folder / name).write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    port = free_port() if ranks > 1 else 0
    return Process([_fork(arguments, folder, rank, ranks, port) for rank in range(ranks)], folder)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fork(arguments: list[str], folder: Path, rank: int, ranks: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, name in ((0, os.devnull), (1, folder / "stdout"), (2, folder / "stderr")):
            mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND
            os.dup2(os.open(name, mode), number)
        if ranks > 1:  # as torchrun starts them
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks}
            for name, value in {**where, "RANK": rank, "LOCAL_RANK": rank}.items():
                os.environ[name] = str(value)
        sys.argv = ["agenticlu", *arguments]
        agenticlu()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@dataclass
class Trial:
    """One folder of results, on its way to what the undisturbed run has."""

    work: Work
    root: Path
    """Takes what the processes print, and what is built from the results."""
    out: Path
    """Takes the results."""
    wanted: Any
    """What the undisturbed run has in the end."""
    log: Path
    """Of the server."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What was finished at any kill."""
    starts: int = 0
    lost: int = 0
    """Calls under way at the kills."""
    asked_from: int = 0
    served_before: int = 0

    def __post_init__(self) -> None:
        self.asked_from = len(self.requests())
        self.served_before = self.served()

    def requests(self) -> list[str | None]:
        """The question of each request so far."""
        return [line["question"] for line in self._logged() if "question" in line]

    def served(self) -> int:
        """The tokens that the server worked through for this trial."""
        return sum(line["tokens"] for line in self._logged()) - self.served_before

    def _logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def start(self) -> Process:
        """Starts the command."""
        self.starts += 1
        folder = self.root / f"process-{self.starts}"
        return start(self.work.arguments(self.out), folder, self.work.ranks)

    def run(
        self, kill_after_s: float | None = None, then: Callable[[], None] = lambda: None
    ) -> int:
        """Runs the command to its end, or until it is killed; checks what it did.

        Args:
            kill_after_s: Seconds; None does not kill.
            then: Called when it has ended, before its results are read.
        """
        settled, number = self.settled(), len(self.requests())
        process = self.start()
        code = process.wait(kill_after_s)
        then()
        again = settled.intersection(self.requests()[number:])
        assert not again, f"asked again though finished: {again}"
        self.work.check_start(self.kept, process.errors)
        self.note()
        return code

    def settled(self) -> frozenset[str]:
        """The questions that are finished."""
        return self.work.settled(self.out)

    def note(self) -> None:
        """Compares what is finished with what was before."""
        now = self.work.finished(self.out)
        for key, value in self.kept.items():
            assert key in now, f"{key} was finished and is lost"
            assert now[key] == value, f"{key} was finished and has changed"
        self.kept = now

    def end(self) -> None:
        """Runs to the end and compares it with the undisturbed run."""
        code = self.run()
        assert code == 0, self.errors()
        self.compare()

    def compare(self) -> None:
        found = self.work.result(self.out, self.root / "built")
        differ = [key for key in self.wanted if found.get(key) != self.wanted[key]]
        assert found.keys() == self.wanted.keys(), found.keys() ^ self.wanted.keys()
        assert not differ, f"{differ[0]}: {found[differ[0]]} instead of {self.wanted[differ[0]]}"

    def errors(self) -> str:
        return (self.root / f"process-{self.starts}" / "stderr").read_text("utf-8", "replace")


@dataclass
class Bench:
    """The troubles of one work."""

    work: Work
    root: Path
    log: Path
    draw: random.Random
    runs: int
    """Folders among which the kills are shared out."""
    wanted: Any = None
    whole_s: float = 0.0
    requests: int = 0
    """Of the undisturbed run."""
    _number: int = 0

    def trial(self, out: Path | None = None) -> Trial:
        """A fresh folder, with the results in `out` or inside."""
        self._number += 1
        root = self.root / f"trial-{self._number}"
        return Trial(self.work, root, out or root / "out", self.wanted, self.log)

    def measure(self) -> None:
        """Runs undisturbed."""
        importlib.import_module(self.work.module)
        trial = self.trial()
        began = time.monotonic()
        assert trial.run() == 0, trial.errors()
        self.whole_s = time.monotonic() - began
        self.requests = len(trial.requests()) - trial.asked_from
        self.wanted = self.work.result(trial.out, trial.root / "built")
        assert self.wanted
        assert trial.run() == 0, trial.errors()  # changes nothing, by the checks of a trial

    def close(self, trial: Trial) -> int:
        """Ends a trial; returns its requests beyond those of the undisturbed run."""
        trial.end()
        if trial.lost < sys.maxsize:
            self.work.check_spent(trial.out, trial.served)
        self.work.check_calls(trial.out, trial.lost)
        more = len(trial.requests()) - trial.asked_from - self.requests
        shutil.rmtree(trial.root)
        return more

    def kills(self, count: int) -> str:
        """Kills at random times, in `runs` folders or as many as it takes."""
        landed = more = lost = folders = 0
        while landed < count:
            trial, folders = self.trial(), folders + 1
            most = min(count, landed + -(-count // self.runs))
            while landed < most:
                if trial.run(self.draw.uniform(0.02, 0.7) * self.whole_s) == 0:
                    break
                landed += 1
                self.work.check_spent(trial.out, trial.served)
                trial.lost += self.work.in_flight(trial.out)
            lost += trial.lost
            more += self.close(trial)
        return (
            f"{landed} kills in {folders} runs, {lost} calls in flight at them, {more} requests "
            f"more than {folders} undisturbed runs of {self.requests}"
        )

    def cuts(self, count: int) -> str:
        """Kills, and tears what was being written."""
        names = list(self.work.tears)
        costly = 0
        for number in range(count):
            trial, name = self.trial(), names[number % len(names)]
            tear = self.work.tears[name]
            while tear.file(trial.out) is None:
                if trial.run(self.draw.uniform(0.3, 0.9) * self.whole_s) == 0:
                    shutil.rmtree(trial.root)
                    trial = self.trial()
            trial.lost += self.work.in_flight(trial.out)
            tear.damage(trial.out, self.draw)
            if tear.costs:  # what stood in the part that is gone is done again, and no more
                costly += 1
                trial.kept = {}
                trial.lost = sys.maxsize
            try:
                self.close(trial)
            except AssertionError as error:
                raise AssertionError(f"after {name}: {error}") from error
        return f"{count} power failures of {len(names)} kinds, {costly} with an end cut off"

    def disks(self, count: int) -> str:
        """Fills a disk at several sizes; then makes room."""
        done = self.trial()
        assert done.run() == 0
        size = sum(file.stat().st_size for file in done.out.rglob("*") if file.is_file())
        refused = 0
        for number in range(count):
            size_kib = max(8, int(size * (number + 0.5) / count) >> 10)
            with small_disk(self.root / "disk", size_kib) as grow:
                trial = self.trial(self.root / "disk" / "out")
                code = trial.run(then=grow)
                refused += code != 0
                assert code == 0 or re.search(r"full|space|No space", trial.errors()), (
                    trial.errors()
                )
                self.close(trial)
        assert refused, "the case must hold full disks"
        return f"{count} full disks of {size >> 10} KiB downwards, {refused} ended the command"

    def pairs(self, count: int) -> str:
        """Starts two processes on one folder."""
        refused = 0
        for _ in range(count):
            trial = self.trial()
            first = trial.start()
            time.sleep(self.draw.uniform(0, 0.6) * self.whole_s)
            second = trial.start()
            codes = [first.wait(), second.wait()]
            assert 0 in codes, (first.errors, second.errors)
            for process, code in zip((first, second), codes, strict=True):
                assert code == 0 or "Another process" in process.errors, process.errors
                refused += code != 0
            trial.note()
            asked = len(trial.requests()) - trial.asked_from
            assert asked <= self.requests + self.work.probes, f"{asked} of {self.requests}"
            self.close(trial)
        return f"{count} pairs of writers, {refused} refused"


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Callable[[], None]]:
    """Mounts a disk of a size; yields what makes it large."""
    folder.mkdir(exist_ok=True)

    def mount(options: str, *more: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, *more, "tmpfs", str(folder)]
        subprocess.run(command, check=True)

    mount(f"size={size_kib}k")
    try:
        yield lambda: mount("remount,size=512m")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def may_mount(folder: Path) -> bool:
    """Whether this process may mount a disk."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError), small_disk(folder, 64):
        return True
    return False


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "works", nargs="*", metavar="WORK", help="generate, eval, train, dpo, ranks; default: all"
    )
    parser.add_argument("--kills", type=int, default=50, help="of each")
    parser.add_argument("--runs", type=int, default=5, help="among which they are shared out")
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--disks", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--latency", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = write_corpus(corpus(given.documents), root / "corpus.jsonl")
        log = root / "requests.jsonl"
        with scripted_server(rows, log, given.latency) as url:
            works = build_works(root, rows, url)
            for name in given.works or works:
                (root / name).mkdir()
                bench = Bench(works[name], root / name, log, random.Random(given.seed), given.runs)
                bench.measure()
                for trouble in ("kills", "cuts", "disks", "pairs"):
                    count = getattr(given, trouble)
                    if not count:
                        continue
                    if trouble == "disks" and not may_mount(root / "disk"):
                        print(f"{name}: full disks not tried: mounting is not allowed", flush=True)
                        continue
                    began = time.monotonic()
                    told = getattr(bench, trouble)(count)
                    print(
                        f"{name}: {told}; all equal ({time.monotonic() - began:.0f} s)", flush=True
                    )


if __name__ == "__main__":
    main()
