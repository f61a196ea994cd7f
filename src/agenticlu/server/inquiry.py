"""Reads requests to the model `agenticlu`: a conversation about documents, as chat or as responses.

Documents are the files of all messages, in their order. Where a conversation has none, the text
before the question is the document: of the first message all parts but the last, or, of a single
text, all but the last paragraph. What stands in system messages and `instructions` goes before the
question. What the dialogue does not do is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.errors import did_you_mean
from agenticlu.dialogue.steps import MAX_TOKENS
from agenticlu.server.desk import GivenFile
from agenticlu.server.fields import flag, integer, number, shown, wrong
from agenticlu.server.limits import DIALOGUE_MODEL, RequestError
from agenticlu.server.requests import (
    EMPTY_MESSAGE_FIELDS,
    IDLE_FIELDS,
    IDLE_MESSAGE_FIELDS,
    MESSAGE_FIELDS,
    MOST_TOKENS,
    NEUTRAL_VALUES,
    ROLES,
    is_same,
    parse_stream_options,
)

TEXT_NAME = "message.txt"
"""Name of a document that is a message's own text."""
MOST_ROUNDS = 8
ROUNDS_OF_EFFORT = {"none": 1, "minimal": 1, "low": 1, "medium": 2, "high": 3, "xhigh": 3}
OWN_FIELDS = ("rounds", "spans", "options", "sources")
"""Of the object `agenticlu` in a request."""
SHARED = frozenset({"model", "stream", "stream_options", "temperature", DIALOGUE_MODEL})
CHAT_FIELDS = SHARED | {"messages", "max_tokens", "max_completion_tokens", "reasoning_effort"}
RESPONSES_FIELDS = SHARED | {
    *("input", "instructions", "previous_response_id", "store", "max_output_tokens", "reasoning"),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **{name: values for name, values in NEUTRAL_VALUES.items() if name != "reasoning_effort"},
    "n": (1,),
    "top_p": (1,),
    "stop": ([],),
    "seed": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "return_token_ids": (False,),
    "text": ({"format": {"type": "text"}}, {}, {"format": {"type": "text"}, "verbosity": "medium"}),
    "truncation": ("disabled",),
    "include": ([],),
    "background": (False,),
    "max_tool_calls": (),
    "conversation": (),
    "prompt": (),
}
"""Fields that are taken only with null or a value that asks for nothing."""
_PARAGRAPH = re.compile(r"\n[ \t\r]*+\n\s*+")
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)


@dataclass
class Told:
    """One message of a conversation."""

    role: str
    texts: list[str] = field(default_factory=list)
    files: list[GivenFile] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts).strip()


@dataclass(frozen=True)
class Inquiry:
    """A question about documents, as a client asked it."""

    question: str
    files: tuple[GivenFile, ...]
    earlier: tuple[tuple[str, str], ...] = ()
    """Questions and answers before it."""
    instructions: str = ""
    """Of system messages; they stand before the question."""
    options: tuple[str, ...] = ()
    rounds: int = 1
    spans: bool = True
    sources: bool = False
    """Whether the text names its sources in words."""
    temperature: float = 0.0
    stream: bool = False
    include_usage: bool = False
    responses: bool = False
    """Whether the answer is a response, not a chat completion."""
    previous: str | None = None
    """Id of the response that this one follows."""
    store: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    """As it came, to be repeated in the response."""

    @property
    def asked(self) -> str:
        """The question with the instructions before it."""
        return "\n\n".join(filter(None, (self.instructions, self.question)))


def parse_inquiry(body: Mapping[str, Any], *, responses: bool, sources: bool = False) -> Inquiry:
    """Reads a request to the model `agenticlu`.

    Args:
        body: From the client.
        responses: Whether it came to /v1/responses.
        sources: Whether texts name their sources where the request does not say.

    Raises:
        RequestError: It is malformed, or asks for what the dialogue does not do.
    """
    _refuse_unsupported(body, RESPONSES_FIELDS if responses else CHAT_FIELDS)
    _check_max_tokens(body)
    where = "input" if responses else "messages"
    told = _parse_input(body.get("input")) if responses else _parse_messages(body.get("messages"))
    previous = body.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise wrong("previous_response_id", "a string", previous)
    files = [file for one in told for file in one.files]
    if not files and previous is None:
        files = _take_text(told, where)
    question, earlier = _part(told, where)
    stream = flag(body, "stream")
    given = body.get("instructions")
    if given is not None and not isinstance(given, str):
        raise wrong("instructions", "a string", given)
    rules = [given or "", *(one.text for one in told if one.role == "system")]
    own = _parse_own(body.get(DIALOGUE_MODEL))
    return Inquiry(
        question=question,
        files=tuple(files),
        earlier=earlier,
        instructions="\n\n".join(filter(None, rules)),
        options=own.get("options", ()),
        rounds=own.get("rounds") or _rounds(body),
        spans=own.get("spans", True),
        sources=own.get("sources", sources),
        temperature=number(body, "temperature", 0.0, 2.0, 0.0),
        stream=stream,
        include_usage=parse_stream_options(body.get("stream_options"), stream),
        responses=responses,
        previous=previous,
        store=body.get("store") is None or flag(body, "store"),
        body=body,
    )


def _refuse_unsupported(body: Mapping[str, Any], fields: frozenset[str]) -> None:
    for name, value in body.items():
        if name in fields:
            continue
        if name in IDLE_FIELDS:
            if value is not None and type(value) is not IDLE_FIELDS[name]:
                raise wrong(name, f"of type {IDLE_FIELDS[name].__name__}", value)
        elif name not in _NEUTRAL:
            known = sorted({*fields, *IDLE_FIELDS})
            raise RequestError(
                f"Unknown field {shown(name)}.", name, hint=did_you_mean(name, known)
            )
        elif value is not None and not any(is_same(value, one) for one in _NEUTRAL[name]):
            raise RequestError(
                f"The model {DIALOGUE_MODEL!r} does not support {name!r}: it samples as its"
                " dialogue wants.",
                name,
            )


def _check_max_tokens(body: Mapping[str, Any]) -> None:
    """An answer has a limit of its own; a lower one would cut it."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = integer(body, name, 1, MOST_TOKENS)
        if limit is not None and limit < MAX_TOKENS["answer"]:
            raise RequestError(
                f"An answer of {DIALOGUE_MODEL!r} takes up to {MAX_TOKENS['answer']} tokens:"
                f" {name!r} must be at least that, or be left out.",
                name,
            )


def _rounds(body: Mapping[str, Any]) -> int:
    """Returns the rounds that an effort stands for."""
    given = body.get("reasoning")
    if given is not None and not isinstance(given, dict):
        raise wrong("reasoning", "an object", given)
    param = "reasoning_effort" if given is None else "reasoning.effort"
    effort = body.get("reasoning_effort") if given is None else given.get("effort")
    if effort is None:
        return 1
    if not isinstance(effort, str) or effort not in ROUNDS_OF_EFFORT:
        raise wrong(param, f"one of {', '.join(ROUNDS_OF_EFFORT)}", effort)
    return ROUNDS_OF_EFFORT[effort]


def _parse_own(given: Any) -> dict[str, Any]:
    """Reads the object with settings of our own."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise wrong(DIALOGUE_MODEL, "an object", given)
    for name in given:
        if name not in OWN_FIELDS:
            raise RequestError(
                f"Unknown field {shown(name)} in {DIALOGUE_MODEL!r}.",
                f"{DIALOGUE_MODEL}.{name}",
                hint=did_you_mean(name, OWN_FIELDS),
            )
    found: dict[str, Any] = {"rounds": integer(given, "rounds", 1, MOST_ROUNDS)}
    for name in ("spans", "sources"):
        if given.get(name) is not None:
            found[name] = flag(given, name)
    options = given.get("options")
    if options is not None:
        is_list = isinstance(options, list) and 2 <= len(options) <= 26
        if not is_list or not all(isinstance(one, str) and one.strip() for one in options):
            raise wrong(f"{DIALOGUE_MODEL}.options", "a list of 2 to 26 strings", options)
        found["options"] = tuple(options)
    return found


# --- Conversations --------------------------------------------------------------------------------


def _take_text(told: list[Told], where: str) -> list[GivenFile]:
    """Takes the document out of the first message of a user."""
    first = next((one for one in told if one.role == "user"), None)
    if first is not None:
        texts = [text for text in first.texts if text.strip()]
        if len(texts) == 1:
            cuts = list(_PARAGRAPH.finditer(texts[0].rstrip()))
            if cuts:
                texts = [texts[0][: cuts[-1].start()], texts[0][cuts[-1].end() :]]
        if len(texts) > 1 and "".join(texts[:-1]).strip():
            first.texts = texts[-1:]
            content = "\n\n".join(texts[:-1]).encode(errors="replace")
            return [GivenFile(param=where, name=TEXT_NAME, data=content)]
    part = "'input_file'" if where == "input" else "'file'"
    raise RequestError(
        f"There is no document to read. Give a content part of type {part} (with 'file_id', or"
        " 'file_data' and 'filename'), or the text before the question, with a blank line between."
        " For the model without a document name another of /v1/models.",
        where,
        code="document_missing",
    )


def _part(told: list[Told], where: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Parts a conversation into the question and what was asked and answered before."""
    earlier: list[tuple[str, str]] = []
    asked: list[str] = []
    for one in told:
        if one.role == "user" and one.text:
            asked.append(one.text)
        elif one.role == "assistant" and asked:
            earlier.append(("\n\n".join(asked), one.text))
            asked = []
    if not asked:
        if told[-1].role == "user":
            raise RequestError("The question is empty. Write what you want to know.", where)
        raise RequestError("The conversation does not end in a user's question.", where)
    return "\n\n".join(asked), tuple(earlier)


def _parse_messages(given: Any) -> list[Told]:
    if not isinstance(given, list) or not given:
        raise wrong("messages", "a list of at least one message", given)
    return [_parse_message(one, f"messages[{i}]", "file", "text") for i, one in enumerate(given)]


def _parse_input(given: Any) -> list[Told]:
    if isinstance(given, str):
        return [Told("user", [given])]
    if not isinstance(given, list) or not given:
        raise wrong("input", "a string or a list of at least one item", given)
    told = []
    for i, one in enumerate(given):
        where = f"input[{i}]"
        if not isinstance(one, dict):
            raise wrong(where, "an object", one)
        kind = one.get("type", "message")
        if kind == "reasoning":
            continue  # the thoughts behind an earlier reply are no part of the conversation
        if kind != "message":
            raise RequestError(
                f"{where}.type is {shown(kind)}; this server takes messages.", f"{where}.type"
            )
        item = {name: value for name, value in one.items() if name not in ("type", "id", "status")}
        told.append(_parse_message(item, where, "input_file", "input_text"))
    return told


def _parse_message(given: Any, where: str, file_type: str, text_type: str) -> Told:
    if not isinstance(given, dict):
        raise wrong(where, "an object", given)
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(
            f"{where}.role is {shown(role)}; allowed are {', '.join(ROLES)}.", f"{where}.role"
        )
    for name, value in given.items():
        if name in MESSAGE_FIELDS or name in IDLE_MESSAGE_FIELDS:
            continue
        # A reply of ours that is sent back has annotations, and the record of the answer.
        if name not in {*EMPTY_MESSAGE_FIELDS, "phase", DIALOGUE_MODEL}:
            raise RequestError(f"Unknown field {shown(name)} in {where}.", f"{where}.{name}")
        if name in EMPTY_MESSAGE_FIELDS - {"annotations"} and value not in (None, [], ""):
            raise RequestError(f"This server does not support {where}.{name}.", f"{where}.{name}")
    told = Told(ROLES[role])
    content = given.get("content")
    if isinstance(content, str):
        told.texts.append(content)
        return told
    if not isinstance(content, list) or not content:
        raise wrong(f"{where}.content", "a string or a list of parts", content)
    for i, part in enumerate(content):
        _parse_part(part, f"{where}.content[{i}]", told, file_type, text_type)
    return told


def _parse_part(part: Any, where: str, told: Told, file_type: str, text_type: str) -> None:
    if not isinstance(part, dict):
        raise wrong(where, "an object", part)
    kind = part.get("type")
    if kind == file_type:
        if told.role != "user":
            raise RequestError(f"{where}: only a user's message may hold a file.", where)
        inner = part if file_type == "input_file" else part.get("file")
        told.files.append(_parse_file(inner, where))
        return
    texts = {text_type: "text", "output_text": "text", "refusal": "refusal"}
    name = texts.get(kind) if isinstance(kind, str) else None
    if name is None:
        raise RequestError(
            f"{where}.type is {shown(kind)}; the model {DIALOGUE_MODEL!r} takes {text_type!r} and"
            f" {file_type!r}.",
            f"{where}.type",
        )
    text = part.get(name)
    if not isinstance(text, str):
        raise wrong(f"{where}.{name}", "a string", text)
    told.texts.append(text)


def _parse_file(given: Any, where: str) -> GivenFile:
    if not isinstance(given, dict):
        raise wrong(f"{where}.file", "an object", given)
    if given.get("file_url") is not None:
        raise RequestError(
            "This server fetches nothing: send the file's 'file_data', or upload it.",
            f"{where}.file_url",
        )
    name, file_id, data = (given.get(one) for one in ("filename", "file_id", "file_data"))
    for key, value in (("filename", name), ("file_id", file_id), ("file_data", data)):
        if value is not None and not isinstance(value, str):
            raise wrong(f"{where}.{key}", "a string", value)
    if (file_id is None) == (data is None):
        raise RequestError(f"{where}: give either 'file_id' or 'file_data'.", where)
    if file_id is not None:
        return GivenFile(param=where, file_id=file_id)
    assert data is not None
    return GivenFile(param=where, name=name or "file", data=_decode(data, f"{where}.file_data"))


def _decode(text: str, param: str) -> bytes:
    """Decodes base64, bare or as a data URL."""
    head = _DATA_URL.match(text)
    if head and not head[0].lower().rstrip(",").endswith(";base64"):
        raise RequestError(f"{param} must be base64 ('data:...;base64,...').", param)
    content = text[head.end() :] if head else text
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{param} is not base64: {error}.", param) from error
