"""Asks about 200 hostile documents, and gets 500 hostile replies; prints time, memory and failures.

    python tests/hostile_many.py [--documents 200] [--replies 500]

Every document is asked about by a command of its own, in a folder of its own, within 4 GB of
address space. Right: it is read, or refused in words (exit 4); no traceback, within 10 s of
processor time, under 1 GB, and no file appears. Every reply is what a server says to all requests
of one question: right is an answer, or an error of ours, within 10 s. Takes some minutes; pytest
does not run it.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import http.server
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from made_documents import DOCUMENTS, SAID, W, damage, make_docx, pack, unpack

from agenticlu.core.errors import AgenticluError

MOST_S = 10.0
HANGS_S = 600.0
"""By the clock, on cores that others use, too."""
MOST_MIB = 1000
ADDRESS_SPACE = 4_000_000_000
COMMAND = [sys.executable, "-c", "from agenticlu.cli import main; main()", "ask"]


# --- Documents ------------------------------------------------------------------------------------


def word(body: str) -> bytes:
    return pack(
        {**unpack(make_docx()), "word/document.xml": f"<w:document {W}>{body}</w:document>"}
    )


def entities(kind: str) -> str:
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    return f'<?xml version="1.0"?><!DOCTYPE {kind} [<!ENTITY a0 "mill">{lines}]>'


def replaced(name: str, file: str, change: Callable[[str], str]) -> bytes:
    files = unpack(DOCUMENTS[name]())
    return pack({**files, file: change(files[file])})


def bombs() -> Iterator[tuple[str, bytes]]:
    for tag in (
        "<div>",
        "<ul><li>",
        "<table><tr><td>",
        "<b>",
        "<blockquote>",
        "<math><mrow>",
        "<ol>",
    ):
        yield "nest.html", f"<html><body>{tag * 30_000}{SAID}".encode()
    for part in (
        "<!--",
        "<a ",
        "<p a=",
        "&",
        "<![CDATA[",
        "</",
        "<td colspan=9999>",
        "<li value=9",
    ):
        yield "run.html", b"<html><body>" + part.encode() * 100_000
    for charset in ("undefined", "punycode", "utf-7", "hex", "idna", "x" * 3000):
        yield "set.html", f'<html><meta charset="{charset}">{SAID}'.encode()
    yield "deep.docx", word("<w:body>" + "<w:p>" * 20_000 + "</w:p>" * 20_000 + "</w:body>")
    yield "many.docx", word("<w:body>" + "<w:p/>" * 5_000_000 + "</w:body>")
    yield "cells.docx", word("<w:body><w:tbl>" + "<w:tr><w:tc><w:tbl>" * 5000 + "</w:body>")
    for name, file in (("a.docx", "word/document.xml"), ("a.epub", "o/a.xhtml")):
        yield name, replaced(name, file, lambda text: entities("x") + text.replace(SAID, "&a11;"))
    spine = '<itemref idref="a"/>'
    yield "spine.epub", replaced("a.epub", "o/c.opf", lambda x: x.replace(spine, spine * 20_000))
    for text in ("[" * 100_000, '{"cells":' * 50_000, "9" * 400_000, '{"cells":[' + "{}," * 9999):
        yield "a.ipynb", text.encode()
    for text in (
        "{" * 200_000,
        r"{\rtf1" + r"\par" * 400_000,
        r"{\rtf1 \bin99999999 x",
        r"{\rtf1\u-",
    ):
        yield "a.rtf", (r"{\rtf1" + text).encode()
    for text in ("a," * 900_000, '"' * 300_000, "\n" * 900_000 + "x", "=" * 90_000):
        yield "a.csv", text.encode()
    mail = "From: a\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    yield "nest.eml", (mail + "--b\n" + mail * 3000).encode()
    yield "heads.eml", ("From: a\n" + "X: =?utf-8?q?=ff?=\n" * 100_000 + "\nx").encode()
    data = pack({f"{number}.xml": "" for number in range(60_000)})
    yield "entries.docx", data
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("word/document.xml", b" " * 400_000_000)
        file.seek(0)
        yield "large.docx", file.read()


def hostile_documents(count: int) -> Iterator[tuple[str, bytes]]:
    yield from (made := list(bombs()))[:count]
    names = list(DOCUMENTS)
    for number in range(count - len(made)):
        chosen = random.Random(number)
        name = names[number % len(names)]
        data = DOCUMENTS[name]()
        for _ in range(chosen.randint(1, 4)):
            data = damage(data, chosen)
        yield name, data


def ask_about(name: str, data: bytes) -> tuple[str | None, float, int]:
    """Returns what is wrong (None: nothing), the seconds of processor time and the MiB."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as err:
        path = Path(folder) / name
        path.write_bytes(data)
        before = sorted(os.listdir(folder))
        pid = os.posix_spawn(
            "/bin/sh",
            [
                *("sh", "-c", 'ulimit -v "$1"; cd "$2"; shift 2; exec "$@"', "sh"),
                *(str(ADDRESS_SPACE >> 10), folder, *COMMAND, name, "Who?", "--dry-run"),
            ],
            {**os.environ, "HOME": folder},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
            ],
        )
        timer = threading.Timer(HANGS_S, os.kill, (pid, signal.SIGKILL))
        timer.start()
        _, status, used = os.wait4(pid, 0)
        timer.cancel()
        # Of the parser's process, too; not by the clock, which runs on where cores are busy.
        seconds, mib = used.ru_utime + used.ru_stime, used.ru_maxrss >> 10
        err.seek(0)
        said = err.read(1 << 20).decode("utf-8", "replace")
        code = os.waitstatus_to_exitcode(status)
        wrong = [
            code not in (0, 4) and f"exit {code}",
            "Traceback" in said and "traceback",
            code == 4 and not said.strip() and "no message",
            seconds > MOST_S and f"{seconds:.1f} s",
            mib > MOST_MIB and f"{mib} MiB",
            sorted(os.listdir(folder)) != before and "files",
        ]
        found = [one for one in wrong if one]
        return (f"{', '.join(found)}: {said.strip()[-200:]}" if found else None), seconds, mib


# --- Replies --------------------------------------------------------------------------------------


def right_reply(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


def hostile_replies(count: int) -> Iterator[bytes]:
    runs = (
        " ",
        "\n",
        "\t",
        "9",
        "a",
        ".",
        "-",
        "[",
        "{",
        "<",
        "*",
        "(",
        '"',
        "para",
        "<para ",
        "yes ",
    )
    heads = (
        "",
        "paragraph",
        "Answer:",
        "<para 1",
        '{"verdict":',
        "[1, ",
        "No. ",
        "<think>",
        "It is (",
    )
    odd = [None, True, -1, 10**30, 0.5, "", "7" * 5000, [], [[]], {}, {"type": "stop"}, "\ud83d"]
    for number in range(count):
        chosen = random.Random(number)
        if number % 2:
            run, head = chosen.choice(runs), chosen.choice(heads)
            text = (
                head
                + run * (chosen.choice((50, 3000, 40_000)) // len(run))
                + chosen.choice("x} \n")
            )
            yield json.dumps(right_reply(text)).encode()
            continue
        reply = right_reply("Answer: grey")
        places: list[tuple[Any, Any]] = []
        todo: list[Any] = [reply]
        for value in todo:
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in pairs:
                places.append((value, key))
                if isinstance(inner, dict | list):
                    todo.append(inner)
        container, key = chosen.choice(places)
        container[key] = chosen.choice(odd)
        body = json.dumps(reply).encode()
        yield chosen.choice((body, body, body[:-9], body * 2, b"[" * 90_000, chosen.randbytes(60)))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the number in the path."""

    protocol_version = "HTTP/1.1"
    replies: tuple[bytes, ...] = ()

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._send(b'{"data": [{"id": "m", "max_model_len": 100000}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.replies[int(self.path.split("/")[1])])


def get_reply(port: int, number: int) -> tuple[str | None, float]:
    import agenticlu

    document = agenticlu.Document.of(f"{SAID} " * 30, "d.txt")
    began = time.monotonic()
    try:
        url = f"http://127.0.0.1:{port}/{number}/v1"
        agenticlu.ask(document, "Who built the mill?", base_url=url, model="m", timeout_s=5.0)
    except AgenticluError as error:
        wrong = None if error.message.strip() else "no message"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    else:
        wrong = None
    seconds = time.monotonic() - began
    return (f"{seconds:.1f} s" if wrong is None and seconds > MOST_S else wrong), seconds


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--documents", type=int, default=200)
    options.add_argument("--replies", type=int, default=500)
    options.add_argument("--jobs", type=int, default=2)
    given = options.parse_args()
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        made = list(hostile_documents(given.documents))
        found = list(pool.map(lambda one: ask_about(*one), made))
    for (name, _), (wrong, _, _) in zip(made, found, strict=True):
        failed += wrong is not None
        if wrong:
            print(f"WRONG {name}: {wrong}")
    if found:
        print(
            f"{len(found)} documents: most {max(s for _, s, _ in found):.1f} s of processor time, "
            f"most memory {max(m for _, _, m in found)} MiB"
        )
    Handler.replies = tuple(hostile_replies(given.replies))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        port = server.server_address[1]
        replies = list(pool.map(lambda n: get_reply(port, n), range(given.replies)))
    told = collections.Counter(wrong for wrong, _ in replies if wrong)
    for wrong, times in told.items():
        print(f"WRONG reply ({times} times): {wrong}")
    failed += sum(told.values())
    if replies:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"{len(replies)} replies: slowest {max(s for _, s in replies):.1f} s, {used} MiB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
