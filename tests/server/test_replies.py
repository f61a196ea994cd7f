"""Text that comes token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.core.errors import DocumentTooLongError, EngineBusyError, EngineError
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.base import TokenLogprob
from agenticlu.server.limits import RequestError, default_body_bytes
from agenticlu.server.replies import UNSETTLED_TOKENS, ReplyText, render_error

needs_model = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer with one token a byte, as what is rare is encoded by real ones."""
    return bytes(ids).decode("utf-8", "replace")


def cut(text: str, stops: list[str]) -> str:
    """A reply ends with the character that completes a stop, and is cut where that began."""
    for end in range(1, len(text) + 1):
        ends = [at for stop in stops if (at := text[:end].find(stop)) >= 0]
        if ends:
            return text[: min(ends)]
    return text


def details(token: int) -> TokenLogprob:
    return TokenLogprob(token, "", -1.0, ())


@given(
    text=st.text(max_size=40),
    stops=st.lists(st.text("ab 日🎉", min_size=1, max_size=4), max_size=4),
)
def test_parts_add_up_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    text = f"ab{text}日a b🎉b"
    ids = list(text.encode("utf-8", "surrogatepass"))
    reply = ReplyText(decode_bytes, tuple(stops))
    expected = cut(decode_bytes(ids), stops)
    sent, told = "", []
    for token in ids:
        part, heard = reply.feed(token, details(token))
        assert bool(part) >= bool(heard), "no log-probabilities without their text"
        sent += part
        told += heard
        assert expected.startswith(sent), "nothing is taken back"
    held = max((len(stop) for stop in stops), default=1) - 1
    assert len(expected) - len(sent) <= held
    assert len(sent) == reply.sent_chars
    assert [one.token_id for one in told] == ids[: len(told)]
    assert reply.sent_details == len(told)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(BUNDLED_MODEL))


@needs_model
@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 1900), max_size=60))
def test_parts_are_those_of_the_whole_decoding(tokenizer: Any, ids: list[int]) -> None:
    def decode(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=True))

    reply = ReplyText(decode)
    sent = "".join(reply.feed(one)[0] for one in ids)
    assert decode(ids).startswith(sent)


def test_each_token_costs_the_same_however_long_the_reply_is() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    reply = ReplyText(decode, ("END",))
    for _ in range(2000):
        reply.feed(65)
    for _ in range(2000):
        reply.feed(0xE6)  # begins a character that never comes
    assert longest <= 2 * (UNSETTLED_TOKENS + 1)


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
