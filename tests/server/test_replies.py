"""What the server says of errors, and how long a body it takes."""

from __future__ import annotations

from agenticlu.core.errors import DocumentTooLongError, EngineBusyError, EngineError
from agenticlu.server.limits import RequestError, default_body_bytes
from agenticlu.server.replies import render_error


def test_errors_have_their_status_and_code() -> None:
    assert render_error(DocumentTooLongError("Too long."))[0] == 400
    status, headers, body = render_error(EngineBusyError("Busy."))
    assert (status, headers["Retry-After"]) == (429, "1")
    assert render_error(EngineError("Broken."))[0] == 500
    status, _, body = render_error(RequestError("No.", "n", status=413, code="x"))
    assert (status, body["error"]["param"], body["error"]["code"]) == (413, "n", "x")


def test_a_window_of_text_fits_into_a_body() -> None:
    text = "word " * 32768
    assert len(text) < default_body_bytes(32768)
    assert default_body_bytes(32768) > 6 * 32768, "a token may be a character, escaped"
