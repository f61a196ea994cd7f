"""The reading room's server: its real process, a real client."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from made_harbour import (
    ON_PAGE,
    RULES,
    harbour_text,
    make_harbour_epub,
    make_harbour_folder,
    make_harbour_pdf,
)
from PIL import Image
from scripted_room import room_process

BEARER = {"Authorization": "Bearer key"}
BOUNDARY = "x0x0x"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
QUESTION = "What is the fee?"


class Client:
    """Asks a room as a program does, with its token."""

    def __init__(self, address: str) -> None:
        self.host = urlsplit(address).netloc

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        given = BEARER if headers is None else headers
        if body is not None and not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), {"Content-Type": "application/json", **given}
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body, given)
            reply = connection.getresponse()
            named = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, named, reply.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, _, body = self.send("GET", path)
        assert status == 200, body
        return json.loads(body)

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """Sends what is refused; returns status and message, with the hint."""
        status, _, found = self.send(method, path, body, **options)
        assert status >= 400
        error = json.loads(found)["error"]
        assert error["message"].endswith((".", "?"))
        return status, f"{error['message']} {error['hint'] or ''}"

    def upload(self, *files: tuple[str, bytes], name: str | None = None) -> Any:
        status, _, body = self.send(
            "POST", "/api/documents", form(*files, name=name), {**BEARER, **FORM}
        )
        assert status == 201, body
        return json.loads(body)

    def read(self, info: dict[str, Any]) -> Any:
        """Waits until a document is read and counted, or has failed."""
        return until(
            lambda: self.get(f"/api/documents/{info['id']}"),
            lambda one: one["status"] == "failed" or one["tokens"] is not None,
        )

    def ask(self, document: str, question: str = QUESTION, **further: Any) -> list[tuple[str, Any]]:
        return list(self.events({"document": document, "question": question, **further}))

    def events(self, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            headers = {**BEARER, "Content-Type": "application/json"}
            connection.request("POST", "/api/ask", json.dumps(body), headers)
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            assert reply.getheader("content-type", "").startswith("text/event-stream")
            name = ""
            while line := reply.readline().decode():
                kind, _, value = line.rstrip("\n").partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()


def form(*files: tuple[str, bytes], name: str | None = None) -> bytes:
    parts = []
    if name is not None:
        parts.append(b'Content-Disposition: form-data; name="name"\r\n\r\n' + name.encode())
    for given, content in files:
        head = f'Content-Disposition: form-data; name="files"; filename="{given}"\r\n\r\n'
        parts.append(head.encode() + content)
    edge = f"--{BOUNDARY}".encode()
    return b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + b"--\r\n"


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with room_process(history=tmp_path_factory.mktemp("room") / "h.sqlite") as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address)


@pytest.fixture(scope="module")
def rules(client: Client) -> Any:
    """The PDF of rules, read."""
    return client.read(client.upload(("rules.pdf", make_harbour_pdf())))


# --- Who comes in ---------------------------------------------------------------------------------


def test_only_who_has_the_address_comes_in(client: Client, address: str) -> None:
    status, headers, body = client.send("GET", "/", headers={})
    assert (status, b"agenticlu read" in body) == (401, True)
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    for method, path in (("GET", "/api/state"), ("GET", "/assets/main.js"), ("POST", "/api/tour")):
        assert client.refused(method, path, headers={})[0] == 401
        assert client.refused(method, path, headers={"Authorization": "Bearer no"})[0] == 401
    assert client.send("GET", "/?token=wrong", headers={})[0] == 401
    status, headers, _ = client.send("GET", f"/?{urlsplit(address).query}", headers={})
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    kept = {"Cookie": 'other={"a": 1}; ' + cookie.partition(";")[0]}
    status, headers, body = client.send("GET", "/", headers=kept)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    for name, value in (
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ):
        assert headers[name] == value
    assert client.send("GET", "/api/state", headers=kept)[0] == 200


@pytest.mark.parametrize(
    "further",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=lambda one: ",".join(f"{name}={value}" for name, value in one.items()),
)
def test_other_pages_are_refused(client: Client, further: dict[str, str]) -> None:
    for method, path in (("GET", "/api/state"), ("POST", "/api/models/look"), ("GET", "/")):
        assert client.refused(method, path, headers={**BEARER, **further})[0] == 403
    own = {"Origin": f"http://{client.host}", "Sec-Fetch-Site": "same-origin"}
    assert client.send("GET", "/api/state", headers={**BEARER, **own})[0] == 200


def test_assets_are_those_of_the_package(client: Client) -> None:
    assert b"<script" in client.send("GET", "/")[2]
    status, headers, _ = client.send("GET", "/assets/main.js")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    for path in ("/assets/../room.py", "/assets/%2e%2e/room.py", "/assets/no.js", "/assets/",
                 "/assets//etc/passwd.js"):  # fmt: skip
        assert client.refused("GET", path)[0] == 404
    assert client.refused("GET", "/nowhere") == (404, "There is no GET /nowhere. ")
    assert client.refused("DELETE", "/api/state")[0] == 405


# --- Documents ------------------------------------------------------------------------------------


def test_a_pdf_is_shown_and_read(client: Client, rules: Any) -> None:
    assert (rules["kind"], rules["status"], rules["pages"]) == ("pdf", "ready", 12)
    assert rules["fits"] is True
    assert rules["pieces"] > 5
    path = f"/api/documents/{rules['id']}"
    pages = client.get(f"{path}/layout?part=0")["pages"]
    assert [page["number"] for page in pages] == list(range(1, 13))
    assert (pages[6]["width"], pages[6]["height"]) == (612.0, 792.0)
    page = pages[ON_PAGE["fee"] - 1]
    text = client.get(f"{path}/text?start={page['start']}&end={page['end']}")["text"]
    assert RULES["fee"] in text
    found = client.get(f"{path}/words?part=0&page={ON_PAGE['fee']}")
    assert found["text"] == text
    at = text.index("northern") + page["start"]
    (word,) = [one for one in found["words"] if one[0] <= at < one[1]]
    left, top, right, bottom = word[2:]
    status, headers, png = client.send(
        "GET", f"{path}/page.png?part=0&page={ON_PAGE['fee']}&scale=2"
    )
    assert (status, headers["content-type"]) == (200, "image/png")
    picture = Image.open(io.BytesIO(png)).convert("L")
    assert picture.size == (1224, 1584)
    ink = picture.crop(tuple(int(2 * side) for side in (left, top, right, bottom)))
    assert min(ink.tobytes()) < 100, "the word's box holds its ink"
    margin = picture.crop((0, 0, 100, 100))
    assert min(margin.tobytes()) > 200
    again = client.send(
        "GET",
        f"{path}/page.png?part=0&page={ON_PAGE['fee']}&scale=2",
        headers={**BEARER, "If-None-Match": headers["etag"]},
    )
    assert (again[0], again[2]) == (304, b"")


def test_pages_can_be_seen_before_the_text_is_read(client: Client) -> None:
    info = client.upload(("long.pdf", make_harbour_pdf(400)))
    assert info["status"] == "reading"
    path = f"/api/documents/{info['id']}"
    assert len(client.get(f"{path}/layout?part=0")["pages"]) == 400
    assert client.send("GET", f"{path}/page.png?part=0&page=1&scale=1")[0] == 200
    seen = client.get(path)
    assert seen["status"] == "reading", "or this shows nothing: make it longer"
    status, told = client.refused("GET", f"{path}/text?start=0&end=9")
    assert (status, "still being read" in told) == (409, True)
    assert client.get(f"{path}/words?part=0&page=1")["words"] == []
    shares = []
    until(
        lambda: shares.append(client.get(path)["progress"]) or client.get(path),
        lambda one: one["status"] == "ready",
    )
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert client.send("DELETE", path)[0] == 204


def test_the_same_file_is_the_same_document(client: Client, rules: Any) -> None:
    again = client.upload(("rules.pdf", make_harbour_pdf()))
    assert again["id"] == rules["id"]
    assert again["status"] == "ready"
    other = client.upload(("other.txt", b"Something else."))
    assert other["id"] != rules["id"]
    listed = [one["id"] for one in client.get("/api/state")["documents"]]
    assert listed.count(rules["id"]) == 1
    assert other["id"] in listed
    assert client.send("DELETE", f"/api/documents/{other['id']}")[0] == 204
    assert other["id"] not in [one["id"] for one in client.get("/api/state")["documents"]]
    assert client.refused("GET", f"/api/documents/{other['id']}")[0] == 404


def test_other_formats_are_text(client: Client) -> None:
    book = client.read(client.upload(("rules.epub", make_harbour_epub())))
    assert (book["kind"], book["pages"]) == ("text", 2)
    pages = client.get(f"/api/documents/{book['id']}/layout?part=0")["pages"]
    assert pages[0]["width"] is None
    plain = client.read(client.upload(("rules.txt", harbour_text().encode())))
    (page,) = client.get(f"/api/documents/{plain['id']}/layout?part=0")["pages"]
    assert (page["start"], page["end"]) == (0, plain["chars"])
    text = client.get(f"/api/documents/{plain['id']}/text?start=0&end=99999999")
    assert text["text"] == harbour_text()
    assert client.get(f"/api/documents/{plain['id']}/text?start=99999999")["text"] == ""
    assert client.refused("GET", f"/api/documents/{plain['id']}/page.png?page=1")[0] == 404


def test_a_folder_is_one_document(client: Client, tmp_path: Path) -> None:
    folder = make_harbour_folder(tmp_path / "harbour")
    files = [
        (path.relative_to(tmp_path).as_posix(), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    files.append(("harbour/broken.pdf", b"%PDF-1.7 broken"))
    files.append(("harbour/.hidden", b"hidden"))
    info = client.read(client.upload(*files, name="harbour"))
    assert (info["kind"], info["name"], info["status"]) == ("folder", "harbour", "ready")
    names = [part["name"] for part in info["parts"]]
    assert names == ["broken.pdf", "old/lamps.txt", "rules.pdf"] or set(names) == {
        "broken.pdf", "old/lamps.txt", "rules.pdf"
    }  # fmt: skip
    assert any("broken.pdf" in note for note in info["notes"])
    assert any("hidden" in note for note in info["notes"])
    number = names.index("rules.pdf")
    entry = client.ask(info["id"])[-1][1]
    places = [place for place in entry["places"] if place["rectangles"]]
    assert places[0]["part"] == number
    assert places[0]["page"] == ON_PAGE["fee"]
    path = f"/api/documents/{info['id']}"
    assert client.send("GET", f"{path}/page.png?part={number}&page=7&scale=1")[0] == 200
    status, told = client.refused("GET", f"{path}/layout?part={names.index('broken.pdf')}")
    assert (status, "broken" in told) == (422, True)
    assert client.refused("GET", f"{path}/layout?part=9")[0] == 404


def test_names_lead_nowhere(client: Client) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    files = [
        ("../../../escaped.txt", b"One rule."),
        ("/etc/escaped.txt", b"Two rules."),
        ("a/../../b\\..\\escaped.txt", b"Three rules."),
        ("a", b"A file where a folder should be."),
        ("a/x.txt", b"Four rules."),
        (f"{'n' * 400}.txt", b"Five rules."),
        ("<script>alert(1)</script>.txt", b"Six rules."),
    ]
    info = client.read(client.upload(*files, name="../<b>up"))
    assert info["status"] == "ready"
    assert len(info["parts"]) == len(files)
    assert not [one for one in before ^ set(os.listdir(tempfile.gettempdir())) if "escaped" in one]
    assert not Path("/etc/escaped.txt").exists()


def encrypted_pdf(folder: Path) -> bytes:
    import subprocess

    plain, locked = folder / "p.pdf", folder / "l.pdf"
    plain.write_bytes(make_harbour_pdf(1))
    command = ["qpdf", "--encrypt", "secret", "owner", "256", "--", str(plain), str(locked)]
    subprocess.run(command, check=True)
    return locked.read_bytes()


def test_what_cannot_be_read_says_why(client: Client, tmp_path: Path) -> None:
    def failure(name: str, content: bytes) -> str:
        info = client.read(client.upload((name, content)))
        assert info["status"] == "failed"
        assert "/tmp" not in info["error"]["message"]
        assert client.ask(info["id"])[-1] == ("error", info["error"])
        return f"{info['error']['message']} {info['error']['hint']}"

    assert "'broken.pdf' is broken" in failure("broken.pdf", b"%PDF-1.7 nothing more")
    assert "'empty.txt' is empty" in failure("empty.txt", b"")
    assert "binary" in failure("program.bin", bytes(range(256)) * 40)
    assert "'bad.docx'" in failure("bad.docx", b"PK\x03\x04 no archive")
    if shutil.which("qpdf"):
        assert "qpdf --decrypt" in failure("locked.pdf", encrypted_pdf(tmp_path))


def test_uploads_are_bounded(client: Client) -> None:
    most = client.get("/api/state")["limits"]["upload_bytes"]
    headers = {**BEARER, **FORM}
    status, told = client.refused(
        "POST", "/api/documents", b"", headers={**headers, "Content-Length": str(most + 1)}
    )
    assert (status, "MiB" in told, "agenticlu read FILE" in told) == (413, True, True)
    # Without a length it is counted as it comes.
    folder = next(Path(tempfile.gettempdir()).glob("agenticlu-room-*"))
    assert folder.stat().st_mode & 0o777 == 0o700

    def chunks() -> Iterator[bytes]:
        yield form(("big.txt", b""))[:-13]
        for _ in range(3 * most // (1 << 20)):
            yield b"x" * (1 << 20)

    connection = http.client.HTTPConnection(client.host, timeout=60)
    try:
        connection.request("POST", "/api/documents", chunks(), headers, encode_chunked=True)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # the server had said enough
    finally:
        connection.close()
    assert status == 413
    assert client.get("/api/state")["documents"] is not None


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"", {"Content-Type": "multipart/form-data"}, 415),
        (b"nonsense", FORM, 400),
        (form(("a.txt", b"abc"))[:-12], FORM, 400),
        (form(name="empty"), FORM, 400),
    ],
)
def test_malformed_uploads_are_told(
    client: Client, body: bytes, headers: dict[str, str], status: int
) -> None:
    found, _ = client.refused("POST", "/api/documents", body, headers={**BEARER, **headers})
    assert found == status


# --- Questions ------------------------------------------------------------------------------------


def test_an_answer_comes_with_its_places_and_its_trail(client: Client, rules: Any) -> None:
    events = client.ask(rules["id"])
    assert events[0][0] == "open"
    assert events[-1][0] == "answer"
    entry = events[-1][1]
    assert entry["conversation"] == events[0][1]["conversation"]
    assert entry["document_name"] == "rules.pdf"
    (place,) = entry["places"]
    text = client.get(
        f"/api/documents/{rules['id']}/text?start={place['start']}&end={place['end']}"
    )["text"]
    assert text == RULES["fee"]
    assert {box["page"] for box in place["rectangles"]} == {ON_PAGE["fee"]}
    kinds = [one["kind"] for one in entry["trail"]]
    assert kinds == ["clarify", "point", "sub_answer", "answer", "check"]
    assert entry["trail"][1]["places"]
    turns = [data for name, data in events if name == "step" and data["kind"] == "turn"]
    assert [turn["turn_kind"] for turn in turns] == kinds
    told = "".join(
        data["text"]
        for name, data in events
        if name == "step" and data["kind"] == "text" and data["turn_kind"] == "answer"
    )
    assert told.strip() == turns[3]["reply"].strip()


def test_history_is_searched_exported_and_deleted(client: Client) -> None:
    info = client.read(client.upload(("notes.txt", harbour_text("lamp").encode())))
    entry = client.ask(info["id"], "When is the lamp lit?")[-1][1]
    client.ask(info["id"], "And who lights the lamp?", conversation=entry["conversation"])
    listed = client.get(f"/api/history?document={info['id']}")["entries"]
    assert [one["question"] for one in listed][::-1] == [
        "When is the lamp lit?",
        "And who lights the lamp?",
    ]
    assert listed[0]["open"] is True
    assert client.get("/api/history?q=LAMP%20lit")["entries"][0]["id"] == entry["id"]
    for form_, begins in (("html", "<!doctype html>"), ("md", "## "), ("json", "{")):
        path = f"/api/export?conversation={entry['conversation']}&format={form_}"
        status, headers, body = client.send("GET", path)
        assert status == 200
        assert headers["content-disposition"] == f'attachment; filename="notes.txt.{form_}"'
        assert body.decode().lower().startswith(begins)
        assert b"who lights" in body
    assert client.refused("GET", f"/api/export?entry={entry['id']}&format=pdf")[0] == 400
    assert client.refused("GET", "/api/export?format=md")[0] == 400
    assert client.refused("GET", "/api/export?conversation=none&format=md")[0] == 404
    assert client.send("DELETE", f"/api/documents/{info['id']}")[0] == 204
    assert client.get(f"/api/history/{entry['id']}")["open"] is False
    assert client.send("DELETE", f"/api/history/{entry['id']}")[0] == 204
    assert client.refused("GET", f"/api/history/{entry['id']}")[0] == 404
    assert client.refused("DELETE", "/api/history")[0] == 400
    assert client.send("DELETE", f"/api/history?document={info['id']}")[0] == 204
    assert client.get(f"/api/history?document={info['id']}")["entries"] == []


def test_an_exported_file_shows_the_cited_pages(client: Client, rules: Any) -> None:
    entry = client.ask(rules["id"])[-1][1]
    _, _, body = client.send("GET", f"/api/export?entry={entry['id']}&format=html")
    assert body.count(b"data:image/png;base64,") == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"document": "none", "question": "Q?"}, 404, "not open"),
        ({"question": "Q?"}, 400, "'document'"),
        ({"document": "RULES", "question": "  "}, 400, "empty"),
        ({"document": "RULES", "question": "Q" * 30_000}, 400, "at most"),
        ({"document": "RULES", "question": "Q?", "options": ["one"]}, 400, "two choices"),
        ({"document": "RULES", "question": "Q?", "options": "AB"}, 400, "'options'"),
        ({"document": "RULES", "question": "Q?", "rounds": 99}, 400, "'rounds'"),
        ({"document": "RULES", "question": "Q?", "conversation": 7}, 400, "'conversation'"),
        ([], 400, "object"),
        (b"{", 415, "JSON"),
    ],
)
def test_wrong_questions_are_told(
    client: Client, rules: Any, body: Any, status: int, says: str
) -> None:
    if isinstance(body, dict) and body.get("document") == "RULES":
        body = {**body, "document": rules["id"]}
    found, told = client.refused("POST", "/api/ask", body)
    assert found == status
    assert says in told


def test_a_server_that_dies_is_told(client: Client, rules: Any) -> None:
    name, data = client.ask(rules["id"], "What is the fee, before you vanish?")[-1]
    assert name == "error"
    assert "closed the connection" in data["message"]
    assert "still running" in data["hint"]
    assert client.ask(rules["id"])[-1][0] == "answer"


def test_a_document_that_is_closed_while_it_is_read_ends_its_questions(client: Client) -> None:
    info = client.upload(("closed.pdf", make_harbour_pdf(300)))
    events = client.events({"document": info["id"], "question": QUESTION})
    assert next(events)[0] == "open"
    assert client.send("DELETE", f"/api/documents/{info['id']}")[0] == 204
    name, told = list(events)[-1]
    assert (name, "not open" in told["message"]) == ("error", True)


def test_two_tabs_share_a_document(client: Client, rules: Any) -> None:
    first = client.events({"document": rules["id"], "question": QUESTION})
    second = client.events({"document": rules["id"], "question": "When is the lamp lit?"})
    assert next(first)[0] == next(second)[0] == "open"
    assert list(second)[-1][1]["answer"]["answer"].startswith("The keeper")
    assert list(first)[-1][1]["answer"]["answer"].startswith("The fee")


@pytest.fixture(scope="module")
def slow() -> Iterator[Client]:
    """A room whose model takes its time."""
    with room_process(word_s=0.05) as address:
        yield Client(address)


def test_stop_gives_the_best_answer_so_far(slow: Client) -> None:
    info = slow.read(slow.upload(("rules.txt", harbour_text().encode())))
    events = slow.events({"document": info["id"], "question": QUESTION})
    run = next(events)[1]["run"]
    for _, data in events:
        if data["kind"] == "text" and data["turn_kind"] == "answer":
            break
    assert slow.send("POST", f"/api/ask/{run}/stop")[0] == 204
    rest = list(events)
    assert rest[-1][0] == "answer"
    answer = rest[-1][1]["answer"]
    assert answer["stopped"] is True
    assert len(answer["answer"]) < len(RULES["fee"])
    assert slow.refused("POST", f"/api/ask/{run}/stop")[0] == 404


def test_a_closed_tab_ends_the_work(slow: Client) -> None:
    info = slow.read(slow.upload(("rules.txt", harbour_text().encode())))
    before = len(slow.get(f"/api/history?document={info['id']}")["entries"])
    events = slow.events({"document": info["id"], "question": QUESTION})
    run = next(events)[1]["run"]
    next(events)
    events.close()
    until(lambda: slow.send("POST", f"/api/ask/{run}/stop")[0], lambda status: status == 404)
    time.sleep(0.3)
    assert len(slow.get(f"/api/history?document={info['id']}")["entries"]) == before


# --- Models ---------------------------------------------------------------------------------------


def test_models_are_looked_for_only_when_told(client: Client) -> None:
    state = client.get("/api/state")
    assert state["model"]["name"] == "scripted-model"
    assert state["looked"] is False
    names = [one["name"] for one in client.get("/api/models")["found"]]
    assert names == ["scripted-model", "agenticlu-tiny"]


def test_a_model_that_is_not_there_is_told_and_nothing_changes(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for body in (
        {"model": "m", "base_url": f"http://127.0.0.1:{port}/v1"},
        {"model": "no/such/folder"},
        {"model": "m", "base_url": "ftp://x"},
    ):
        assert client.refused("POST", "/api/model", body)[0] in (400, 502)
    assert client.refused("POST", "/api/model", {"base_url": "http://x/v1"})[0] == 400
    assert client.get("/api/state")["model"]["name"] == "scripted-model"


def test_an_answer_under_way_ends_with_its_model(slow: Client) -> None:
    info = slow.read(slow.upload(("rules.txt", harbour_text().encode())))
    events = slow.events({"document": info["id"], "question": QUESTION})
    next(events)
    next(events)
    status, _, body = slow.send("POST", "/api/model", {"model": "agenticlu-tiny"})
    assert (status, json.loads(body)["bundled"]) == (200, True)
    name, entry = list(events)[-1]
    assert (name, entry["answer"]["engine"]) == ("answer", "scripted-model")
    tokens = slow.read(info)["tokens"]
    back = {"model": "scripted-model", "base_url": "in this process"}
    assert slow.send("POST", "/api/model", back)[0] == 200
    assert slow.read(info)["tokens"] != tokens, "each model counts by itself"


def test_a_tour_is_at_hand(slow: Client) -> None:
    status, _, body = slow.send("POST", "/api/tour")
    assert status == 200
    tour = json.loads(body)
    assert len(tour["questions"]) == 3
    slow.read(tour["document"])
    events = slow.ask(tour["document"]["id"], tour["questions"][0])
    assert events[-1][1]["answer"]["answer"] == "goat"
    assert slow.send("POST", "/api/model", {"model": "scripted-model",
                                            "base_url": "in this process"})[0] == 200  # fmt: skip
