"""Documents from addresses: a real server on loopback that answers well and badly."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.limits import ReadingLimits
from agenticlu.documents import addresses, load_document
from agenticlu.documents.addresses import MAX_REDIRECTS, fetch, public_address, reach_of

Reply = Callable[[BaseHTTPRequestHandler], None]
PAGE = "<html><title>Tür</title><p>Die Mühle stand in Vell.</p></html>"


def text(
    body: bytes | str, kind: str | None = "text/plain", status: int = 200, **headers: str
) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        if kind is not None:
            handler.send_header("Content-Type", kind)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def redirect(target: str, status: int = 302) -> Reply:
    return text("", status=status, Location=target)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts servers with a reply for each path; returns the address, and keeps what was asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(replies: dict[str, Reply], asked: list[Any] | None = None, tls: Any = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if asked is not None:
                    asked.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                with contextlib.suppress(OSError):
                    replies.get(path, text("gone", status=404))(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass

        server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# --- What is read ---------------------------------------------------------------------------------


def test_a_page_is_read_by_its_type_and_charset(serve: Any) -> None:
    latin = PAGE.encode("latin-1")
    url = serve(
        {
            "/page": text(latin, "text/html; charset=iso-8859-1"),
            "/wrong": text(
                PAGE.replace("<title>", "<meta charset=utf-8><title>").encode("latin-1"),
                "text/html; charset=windows-1252",
            ),
            "/unsaid": text(PAGE, "text/html"),
            "/notes.md": text("# A title\n\nBody."),
            "/raw": text("Only words, no type.", None),
            "/nonsense": text("Words.", "text/plain; charset=klingon"),
            "/login.pdf": text(PAGE, "text/html"),
            "/an%20old%20m%C3%BChle.md": text("Words."),
        }
    )
    for path in ("/page", "/wrong", "/unsaid", "/login.pdf"):
        document = load_document(url + path)
        assert (document.title, "Mühle" in document.text) == ("Tür", True), path
        assert document.source == url + path
    assert load_document(url + "/notes.md").title == "A title"
    assert load_document(url + "/raw").text == "Only words, no type."
    assert load_document(url + "/nonsense").text == "Words."
    for path in ("/an old mühle.md", "/an%20old%20m%C3%BChle.md"):
        assert load_document(url + path).text == "Words.", "as browsers take it"
    both = load_document([url + "/page", url + "/raw"])
    assert [part.source for part in both.parts] == [url + "/page", url + "/raw"]


def test_a_redirect_is_followed_and_the_end_is_the_source(serve: Any) -> None:
    url = serve(
        {
            "/a": redirect("b%20c?x=ü#top"),
            "/b%20c": redirect("/end", 307),
            "/end": text("The end."),
            "/loop": redirect("/loop"),
        }
    )
    document = load_document(url + "/a#part")
    assert (document.text, document.source) == ("The end.", url + "/end")
    with pytest.raises(DocumentError, match=f"more than {MAX_REDIRECTS} times"):
        load_document(url + "/loop")


def test_packed_bodies_are_unpacked_and_bounded(serve: Any) -> None:
    two = gzip.compress(b"One. ") + gzip.compress(b"Two.")
    bomb = gzip.compress(bytes(65 << 20), 1)
    packed = {"Content_Encoding": "gzip"}
    url = serve(
        {
            "/two": text(two, **packed),
            "/large": text(gzip.compress(b"word " * 100_000), **packed),
            "/bomb": text(bomb, **packed),
            "/torn": text(two[:-9], **packed),
            "/other": text(two, Content_Encoding="br"),
            "/long": text(b"x" * 4000),
        }
    )
    assert load_document(url + "/two").text == "One. Two."
    assert len(load_document(url + "/large").text) == 500_000
    for path, words in {
        "/bomb": "takes more than 64 MiB",
        "/torn": "broke off in the middle",
        "/other": "packed as br",
    }.items():
        with pytest.raises(DocumentError, match=words):
            load_document(url + path)
    with pytest.raises(DocumentError, match="takes more than"):
        fetch(url + "/long", max_bytes=3999)
    assert len(fetch(url + "/long", max_bytes=4000).data) == 4000


# --- What is refused ------------------------------------------------------------------------------


def test_errors_say_what_happened(serve: Any) -> None:
    url = serve(
        {
            "/forbidden": text("no", status=403),
            "/broken": text("no", status=500),
            "/empty": text(""),
            "/short": text("abc", Content_Length="99", Connection="close"),
            "/image": text(b"\x89PNG\r\n\x1a\n\x00\x00", "image/png"),
        }
    )
    for path, words in {
        "/nothing": "replied 404 Not Found",
        "/forbidden": "replied 403",
        "/broken": "replied 500",
        "/empty": "is empty",
        "/image": "is an image",
    }.items():
        with pytest.raises(DocumentError, match=words) as caught:
            load_document(url + path)
        assert url in caught.value.message
        assert caught.value.hint
    with pytest.raises(DocumentError, match=r"there is no host 'nowhere\.invalid'"):
        load_document("http://nowhere.invalid/a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DocumentError, match="refused"):
            load_document(f"http://127.0.0.1:{taken.getsockname()[1]}/")


@pytest.mark.parametrize(
    "address",
    ["http://", "https:///a", "http://[::1", "http://a b/", "http://a:99999/", "http://h:0/"],
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(DocumentError, match="is not an address"):
        load_document(address)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://h/a", "http://[::1", "javascript:x"]
)
def test_a_redirect_to_no_address_is_refused(serve: Any, target: str) -> None:
    with pytest.raises(DocumentError, match=r"not fetched|no address|is not an address"):
        load_document(serve({"/": redirect(target)}))


def test_a_server_that_drips_does_not_hold_us(serve: Any) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)

    url = serve({"/body": drip})
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip_head() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"y" * 200:
                    connection.send(bytes([byte]))
                    time.sleep(0.02)

        threading.Thread(target=drip_head, daemon=True).start()
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for address in (url + "/body", silent):
            began = time.monotonic()
            with pytest.raises(DocumentError, match="in time"):
                fetch(address, timeout_s=0.3)
            assert time.monotonic() - began < 2.5


def test_a_certificate_must_be_valid(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem "
        "-out cert.pem -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    made = subprocess.run(command.split(), cwd=tmp_path, capture_output=True)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    plain = serve({"/": text("In the clear.")})
    url = serve({"/": text("Sealed."), "/down": redirect(plain)}, tls=context)
    with pytest.raises(DocumentError, match="certificate is not valid"):
        load_document(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert load_document(url).text == "Sealed."
    with pytest.raises(DocumentError, match="from https to http"):
        load_document(url + "/down")


FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 302 Found\r\n",
    b"HTTP/9.9 999 \xff\r\n",
    b"SSH-2.0-x\r\n",
    b"Content-Type: text/html; charset=\xff\r\n",
    b"Content-Type: text/plain; charset*=utf-8''%zz\r\n",
    b"Content-Type: text/html; charset=replacement\r\n",
    b"Content-Type: ;;;\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: \x1b[2J\r\n",
    b"Location: /x\r\n",
    b"Location: //[\r\n",
    b"Location: http://\x00/\r\n",
    b"Location: \xff\xfe\r\n",
    b"X: y\r\n" * 150,
    b"\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffff\r\n",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    b"A" * 70_000,
]


def test_no_reply_is_a_traceback() -> None:
    rng = random.Random(5)
    reply = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        outcomes = []
        for _ in range(300):
            start = rng.choices([*FRAGMENTS[:2], b""], (6, 3, 1))
            reply = b"".join([*start, *rng.choices(FRAGMENTS, k=rng.randint(0, 7))])
            try:
                outcomes.append(len(fetch(url, timeout_s=5).data) >= 0)
            except DocumentError as error:
                outcomes.append(not error.message)
        listener.shutdown(socket.SHUT_RDWR)
    assert 30 < sum(outcomes) < 270, "both kinds were met"


# --- Private networks -----------------------------------------------------------------------------


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Names to the numbers of each of their lookups; all numbers lead to loopback."""
    names: dict[str, list[list[str]]] = {}
    resolve, connect = socket.getaddrinfo, socket.create_connection

    def looked_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host not in names:
            return resolve(host, port, *args, **kwargs)
        numbers = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in numbers]

    def connected(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        assert addresses.ipaddress.ip_address(address[0]), "a name would be resolved again"
        return connect(("127.0.0.1", address[1]), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(socket, "create_connection", connected)
    return names


@pytest.mark.parametrize(
    "number",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "224.0.0.1",
        "2002:7f00:1::",
        "240.0.0.1",
    ],
)
def test_no_redirect_leads_into_a_private_network(
    serve: Any, net: dict[str, list[list[str]]], number: str
) -> None:
    assert reach_of(number) != "public"
    asked: list[Any] = []
    inside = serve({"/secret": text("the secret")}, asked)
    port = inside.rpartition(":")[2]
    host = f"[{number}]" if ":" in number else number
    net |= {"inner.test": [[number]], "both.test": [["93.184.216.34", number]]}
    net |= {"outer.test": [["93.184.216.34"]]}
    for target in (
        f"http://{host}:{port}",
        f"http://inner.test:{port}",
        f"http://both.test:{port}",
    ):
        outside = serve({"/": redirect(f"{target}/secret")}).replace("127.0.0.1", "outer.test")
        with pytest.raises(DocumentError, match="not on the public network") as caught:
            load_document(outside)
        assert "--allow-private" in str(caught.value.hint)
    assert asked == []
    net["inner.test"] = [["10.0.0.1"]]
    outside = serve({"/": redirect(f"http://inner.test:{port}/secret")})
    outside = outside.replace("127.0.0.1", "outer.test")
    assert load_document(outside, limits=ReadingLimits(allow_private=True)).text == "the secret"


def test_a_name_that_changes_its_number_is_judged_by_each(
    serve: Any, net: dict[str, list[list[str]]]
) -> None:
    port = serve({"/": redirect("/secret"), "/secret": text("x")}).rpartition(":")[2]
    net["turns.test"] = [["93.184.216.34"], ["127.0.0.1"]]
    with pytest.raises(DocumentError, match="not on the public network but loopback"):
        load_document(f"http://turns.test:{port}/")


def test_from_a_private_network_redirects_stay_in_one_of_its_kind(
    serve: Any, net: dict[str, list[list[str]]]
) -> None:
    port = serve({"/": text("The wiki.")}).rpartition(":")[2]
    net |= {
        "wiki.corp": [["10.0.0.1"]],
        "files.corp": [["10.0.0.2"]],
        "a.test": [["93.184.216.34"]],
    }
    net["meta.corp"] = [["169.254.169.254"]]
    for target, is_allowed in (("files.corp", True), ("a.test", True), ("meta.corp", False)):
        start = serve({"/": redirect(f"http://{target}:{port}/")}).rpartition(":")[2]
        address = f"http://wiki.corp:{start}/"
        if is_allowed:
            assert load_document(address).text == "The wiki."
        else:
            with pytest.raises(DocumentError, match="but link-local"):
                load_document(address)


def test_passwords_go_to_the_host_alone_and_are_never_kept(serve: Any) -> None:
    asked: list[Any] = []
    other = serve({"/end": text("Read.")}, asked)
    url = serve({"/": redirect("/here"), "/here": redirect(f"{other}/end?sig=abc")}, asked)
    secret = url.replace("//", "//ada:s%40same@")
    document = load_document(f"{secret}/?token=sesame")
    assert [("Authorization" in headers) for _, headers in asked] == [True, True, False]
    assert document.source == f"{other}/end?sig=***"
    for bad in (f"{secret}/nothing?api_key=sesame", secret.replace("127.0.0.1", "nowhere.invalid")):
        with pytest.raises(DocumentError) as caught:
            load_document(bad)
        assert "same" not in f"{caught.value.message} {caught.value.hint}"
    assert public_address("http://u:p@[::1") == "http://[::1"
    assert public_address("https://h/a?monkey=1&X-Amz-Signature=2&keys=3") == (
        "https://h/a?monkey=1&X-Amz-Signature=***&keys=3"
    )
