"""How long the report takes to show a large tree in a real browser.

    python benchmarks/viewer.py [--trees N] [--repeats N] [--json FILE]

Builds a page with full trees of 585 nodes (8 samples a round, 3 rounds) over a document of about
16K tokens, opens one of them by its address in headless Chromium, and prints: the time from the
start of the page's loading until the tree, its node and its document are laid out; the opening
alone, as a click on another tree costs; the size of the page and the time it took to build. The
target is 2 seconds from the start of the loading, in the fastest of the repeats.

On a machine that is busy with other work the wall clock says little; the processor time of the
whole browser, less that of an empty page, is printed beside it. It holds more than the opening
(writing out the page for this script, for one), so a free core opens the tree in less, and the
target counts as met by either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agenticlu.report.page import build_report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from made_report import sample_report

TARGET_S = 2.0
UNITS = {
    "ready_or_cpu_s": "s", "ready_s": "s", "ready_s_worst": "s", "opened_s": "s",
    "browser_cpu_s": "s", "build_s": "s", "page_mb": "MB", "nodes": "nodes",
    "trees_in_page": "trees", "document_tokens": "tokens", "load": "processes", "cores": "cores",
}  # fmt: skip
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1440,1200",
)  # fmt: skip


def open_page(browser: str, address: str) -> tuple[str, float]:
    """Returns the page's DOM and the processor seconds of the whole browser."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", address]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return done.stdout.decode("utf-8"), spent


def main() -> int:
    """Measures and prints; exit code 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trees", type=int, default=8, help="trees in the page")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    data = sample_report(num_trees=options.trees, branching=8, depth=3, num_pieces=160)
    tree = data.trees[min(3, len(data.trees) - 1)]
    began = time.perf_counter()
    page = build_report(data)
    build_s = time.perf_counter() - began
    ready_s, opened_s, whole_s, empty_s = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        empty = Path(folder) / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>", encoding="utf-8")
        for _ in range(options.repeats):
            dom, seconds = open_page(browser, f"{path.as_uri()}#tree={tree.id}")
            assert dom.count('role="treeitem"') == len(tree.nodes), "the tree was not drawn"
            times = dict(re.findall(r'data-(open|ready)-ms="([\d.]+)"', dom))
            opened_s.append(float(times["open"]) / 1000)
            ready_s.append(float(times["ready"]) / 1000)
            whole_s.append(seconds)
            empty_s.append(open_page(browser, empty.as_uri())[1])
    result = {
        "nodes": len(tree.nodes),
        "trees_in_page": len(data.trees),
        "document_tokens": sum(piece.num_tokens for piece in data.pieces[tree.document_id]),
        "page_mb": round(len(page.encode()) / 1e6, 2),
        "build_s": round(build_s, 2),
        "ready_s": round(min(ready_s), 3),
        "ready_s_worst": round(max(ready_s), 3),
        "opened_s": round(min(opened_s), 3),
        "browser_cpu_s": round(min(whole_s) - min(empty_s), 2),
        "load": round(os.getloadavg()[0], 1),
        "cores": len(os.sched_getaffinity(0)),
        "ready_or_cpu_s": round(min(min(ready_s), min(whole_s) - min(empty_s)), 3),
        "target_s": TARGET_S,
        "met": min(min(ready_s), min(whole_s) - min(empty_s)) < TARGET_S,
    }
    for name, value in result.items():
        print(f"{name:24} {value}")
    if options.json:
        figures = [
            {
                "name": name,
                "value": result[name],
                "unit": unit,
                "target": TARGET_S if name == "ready_or_cpu_s" else None,
                "met": result["met"] if name == "ready_or_cpu_s" else None,
            }
            for name, unit in UNITS.items()
        ]
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
