"""Encodes rows of conversations: the token ids of each trace, and which of them are targets.

The conversation is rendered as it is when the model is asked (`ChatFormat`), turn by turn; what a
turn adds to the text is what the template adds, never what a search finds. Each addition is
tokenised by itself, as a model continuing the prompt sees it, so prompts are prefixes of traces in
ids as well as in text. Text that many rows share (a document) is tokenised and kept once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agenticlu.core.errors import EngineError, TrainingError
from agenticlu.core.files import load_rows
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.training.rows import (
    COLUMNS,
    FOLDERS,
    Messages,
    Stage,
    find_extra,
    find_rows,
    parse_conversations,
    parse_targets,
)

Turns = Literal["all", "last"]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Trace:
    """One conversation as token ids."""

    pieces: tuple[Ids, ...]
    """The ids, in pieces that other traces share."""
    spans: tuple[tuple[int, int], ...]
    """Target tokens as [start, end) ranges, ascending."""

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def ids(self) -> Ids:
        """All ids in one array."""
        return np.concatenate(self.pieces) if self.pieces else np.empty(0, np.int32)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True where a token is a target."""
        mask = np.zeros(len(self), dtype=np.bool_)
        for start, end in self.spans:
            mask[start:end] = True
        return mask

    @property
    def num_targets(self) -> int:
        """Supervised tokens."""
        return sum(end - start for start, end in self.spans)

    def digest(self) -> bytes:
        """Returns a hash of ids and targets."""
        return hashlib.blake2b(
            self.ids.astype("<i4").tobytes() + b"|" + repr(self.spans).encode(), digest_size=16
        ).digest()


@dataclass(frozen=True)
class Unit:
    """The traces of one row, sampled together: one (SFT), or chosen and rejected (DPO)."""

    id: str
    document_id: str | None
    traces: tuple[Trace, ...]
    evidence: Trace | None = None
    """Distillation: the same replies after the evidence alone, as the teacher reads them."""
    question_id: str | None = None

    def shown_evidence(self) -> Unit:
        """Returns the unit as the teacher reads it."""
        assert self.evidence is not None
        return replace(self, traces=(self.evidence,), evidence=None)


@dataclass
class EncodeReport:
    """Counts of rows used and dropped."""

    rows: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """Row id and reason, in order."""
    split: int = 0
    """Rows that became several units, because the template rewrites earlier turns."""

    @property
    def reasons(self) -> Counter[str]:
        """Number of rows dropped for each reason."""
        return Counter(reason for _, reason in self.dropped)

    def summary(self) -> str:
        """Returns one line for people."""
        split = (
            f"; {self.split} became one unit a reply, for the template rewrites earlier turns"
            if self.split
            else ""
        )
        if not self.dropped:
            return f"{self.rows} rows, none dropped{split}"
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
        first = ", ".join(row for row, _ in self.dropped[:3])
        return f"{self.rows} rows, {len(self.dropped)} dropped ({why}; first: {first}){split}"


class Encoder:
    """Renders conversations with a tokenizer's chat template and marks the targets."""

    def __init__(
        self, tokenizer: Any, *, turns: Turns = "all", stop_ids: Collection[int] = ()
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TrainingError(
                "The model's tokenizer has no chat template, so conversations cannot be rendered.",
                hint="Use an instruct model, or put a chat_template.jinja into the model's folder.",
            )
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer, getattr(tokenizer, "name_or_path", "") or "the model")
        self.turns = turns
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(stop_ids) | (frozenset() if eos is None else {eos})
        self._cache: dict[bytes, Ids] = {}
        self._special = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and not (token.lstrip or token.rstrip or token.single_word)
        }
        names = sorted((one for one in self._special if len(one) > 1), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        ends = [
            re.escape(text) for text, number in self._special.items() if number in self.stop_ids
        ]
        self._ends = re.compile("|".join(ends)) if ends else None
        self._next_turn: str | None = None
        self._checks_left = 3
        self._piecewise = True

    def render(self, messages: Messages, *, prompt: bool) -> str:
        """Returns the text of a conversation; with `prompt`, up to where the model writes."""
        with _as_training_error():
            return self.chat.render_rows(messages, prompt=prompt)

    def encode(
        self, messages: Messages, first_target: int = 0, targets: Collection[int] | None = None
    ) -> Trace:
        """Encodes one conversation as one trace; see `encode_turns`.

        Raises:
            TrainingError: Also where the template rewrites earlier turns, so that a prompt does
                not begin with the one before it.
        """
        traces = self.encode_turns(messages, first_target, targets)
        if len(traces) > 1:
            raise self._unstable(*traces[:2])
        return traces[0] if traces else Trace((), ())

    def encode_turns(
        self, messages: Messages, first_target: int = 0, targets: Collection[int] | None = None
    ) -> list[Trace]:
        """Encodes one conversation, every reply after the very prompt that asks for it.

        Args:
            messages: The conversation.
            first_target: Assistant messages before this index are context, never targets.
            targets: Indices of the messages that may be targets; None means all replies. A search
                path may pass through a wrong answer, which must not be learned.

        Returns:
            One trace, cut after its last target. Where the template rewrites earlier turns (it
            drops their thoughts, or moves the system turn), a trace for each stretch of replies
            that only appends. None where there is nothing to learn, or a reply to learn is empty.

        Raises:
            TrainingError: The template rejects the conversation, or hides a reply.
        """
        replies = [
            index
            for index, message in enumerate(messages)
            if index >= first_target
            and message["role"] == "assistant"
            and (targets is None or index in targets)
        ]
        if self.turns == "last":
            replies = replies[-1:]
        if not replies or not all(messages[index]["content"].strip() for index in replies):
            return []
        return [
            self._encode_stretch(parts, [messages[index].get("token_ids") for index in stretch])
            for parts, stretch in self._render_turns(messages, replies)
        ]

    def _encode_stretch(self, parts: list[str], ids: Sequence[Sequence[int] | None]) -> Trace:
        """Encodes prompts and replies in turn; `ids` are those that the engine sampled."""
        sampled = [one for reply in ids for one in (None, reply)]
        encoded = [
            self._encode_text(part) if one is None else self._encode_reply(part, one)
            for part, one in zip(parts, sampled, strict=True)
        ]
        # Some tokenizers treat the start of a text specially; a few rows show whether one does.
        if self._checks_left and not any(sampled):
            self._checks_left -= 1
            self._piecewise = self._piecewise and self._agrees(parts, encoded)
        if not self._piecewise:
            encoded = self._encode_whole(parts)
        return self._mark_targets(encoded)

    def _render_turns(
        self, messages: Messages, replies: Sequence[int]
    ) -> list[tuple[list[str], list[int]]]:
        """Returns stretches of replies: what each prompt and reply adds to the text, and which."""
        stretches: list[tuple[list[str], list[int]]] = []
        text = ""
        for index in replies:
            with _as_training_error():
                prompt, reply = self.chat.render_reply(messages[: index + 1])
            reply = self._end_reply(reply, messages[index]["content"])
            if not stretches or not prompt.startswith(text):
                stretches.append(([], []))
                text = ""
            parts, stretch = stretches[-1]
            parts += [prompt[len(text) :], reply]
            stretch.append(index)
            text = prompt + reply
        return stretches

    def _end_reply(self, reply: str, said: str) -> str:
        """Cuts a reply after its first end token: a model asked for it writes no further.

        In some templates only the opening of the next turn ends a reply; it is learnt then.
        """
        if self._ends is None:
            return reply
        start = max(0, reply.find(self.chat.disarm(said).strip()))
        if found := self._ends.search(reply, start + len(said.strip())):
            return reply[: found.end()]
        if self._next_turn is None:
            self._next_turn = self._find_next_turn()
        return reply + self._next_turn

    def _find_next_turn(self) -> str:
        """Returns the end token that a user's turn after a reply begins with, or ''."""
        assert self._ends is not None
        talk = [
            {"role": role, "content": text}
            for role, text in (("user", "?"), ("assistant", "."), ("user", "!"))
        ]
        with contextlib.suppress(EngineError):
            finished = self.chat.render_rows(talk[:2], prompt=False)
            asked = self.chat.render_rows(talk)
            if asked.startswith(finished) and (found := self._ends.match(asked, len(finished))):
                return found[0]
        return ""

    def _mark_targets(self, encoded: list[list[Ids]]) -> Trace:
        """Joins the chunks of prompts and replies, in turn; cut after the last target."""
        pieces: list[Ids] = []
        spans: list[tuple[int, int]] = []
        position = 0
        for number, chunks in enumerate(encoded):
            ids = np.concatenate(chunks) if chunks else np.empty(0, np.int32)
            if number % 2 and len(ids):  # a reply
                spans.append((position, position + len(ids)))
            pieces += chunks
            position += len(ids)
        if not spans:
            raise TrainingError(
                "The chat template leaves no target: rendering the assistant's turn adds no token.",
                hint="It may drop assistant messages; check what it renders.",
            )
        return Trace(tuple(_cut(pieces, spans[-1][1])), tuple(spans))

    def _unstable(self, first: Trace, second: Trace) -> TrainingError:
        a, b = first.ids, second.ids
        size = min(len(a), len(b))
        at = int(np.argmin(np.append(a[:size] == b[:size], False)))
        short, long = (self.tokenizer.decode(ids[max(0, at - 6) : at + 6]) for ids in (a, b))
        return TrainingError(
            "The chat template is not prefix-stable: a later turn changes what it wrote before, "
            f"at token {at} ({short!r} becomes {long!r}).",
            hint="Train on one turn per row (--turns last), or use a template that only appends.",
        )

    def _encode_text(self, text: str) -> list[Ids]:
        # Tokenizers never join text across a special token, so text between two of them can be
        # tokenised by itself: a document is, once, however many rows hold it.
        chunks: list[Ids] = []
        for part in self._split.split(text) if self._split else [text]:
            if part in self._special:
                chunks.append(np.array([self._special[part]], np.int32))
            elif part:
                key = hashlib.blake2b(part.encode("utf-8", "surrogatepass")).digest()
                if key not in self._cache:
                    ids = self.tokenizer(part, add_special_tokens=False)["input_ids"]
                    self._cache[key] = np.array(ids, np.int32)
                chunks.append(self._cache[key])
        return chunks

    def _encode_reply(self, text: str, sampled: Sequence[int]) -> list[Ids]:
        """Returns the ids that the engine sampled, then those of what the template adds.

        The sampled ids are used only if they spell the reply; otherwise the text is tokenised.
        """
        if max(sampled) >= len(self.tokenizer):  # of another model; decoded to nothing
            return self._encode_text(text)
        said = self.tokenizer.decode(list(sampled), skip_special_tokens=False)
        if not text.startswith(said):
            return self._encode_text(text)
        return [np.array(sampled, np.int32), *self._encode_text(text[len(said) :])]

    def _agrees(self, parts: list[str], encoded: list[list[Ids]]) -> bool:
        """Whether tokenising in parts gives the ids of tokenising at once."""
        whole = self.tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
        return bool(np.array_equal(np.concatenate(list(itertools.chain(*encoded))), whole))

    def _encode_whole(self, parts: list[str]) -> list[list[Ids]]:
        """Encodes for tokenizers that cannot be fed in parts; finds boundaries by offsets."""
        text = "".join(parts)
        result = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.array(result["input_ids"], np.int32)
        ends = np.array([end for _, end in result["offset_mapping"]], np.int64)
        encoded, at, boundary = list[list[Ids]](), 0, 0
        for part in parts:
            boundary += len(part)
            upto = int(np.searchsorted(ends, boundary, side="right"))
            starts_at = int(result["offset_mapping"][upto][0]) if upto < len(ids) else boundary
            if starts_at < boundary:
                raise TrainingError(
                    "The tokenizer joins the end of the prompt and the start of the reply into "
                    f"one token ({text[starts_at : starts_at + 20]!r}).",
                    hint="The template must end prompts where a token ends.",
                )
            encoded.append([ids[at:upto]])
            at = upto
        return encoded


@contextlib.contextmanager
def _as_training_error() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise TrainingError(error.message, hint=error.hint) from error


def _cut(pieces: list[Ids], length: int) -> Iterator[Ids]:
    for piece in pieces:
        if length <= 0:
            return
        yield piece if len(piece) <= length else piece[:length]
        length -= len(piece)


def encode_rows(
    rows: Iterator[dict[str, Any]],
    encoder: Encoder,
    stage: Stage,
    *,
    max_tokens: int,
    refuse_bad_rows: bool = False,
    report: EncodeReport | None = None,
) -> Iterator[Unit]:
    """Yields the usable rows as units; the others go to the report with the reason.

    Raises:
        TrainingError: A row is malformed, or (with `refuse_bad_rows`) would be dropped.
    """
    report = EncodeReport() if report is None else report
    for number, row in enumerate(rows):
        row_id = str(row.get("id") or row.get("pair_id") or number)
        report.rows += 1
        columns = COLUMNS[stage]
        if stage == "sft" and "messages" not in row and "prompt" in row:
            columns = ("prompt",)
        missing = [column for column in columns if column not in row]
        if missing:
            raise TrainingError(
                f"Row {row_id} has no column {missing[0]!r}; {stage} rows need "
                f"{' and '.join(COLUMNS[stage])}. Found: {', '.join(row)}."
            )
        conversations = [
            (messages, first, parse_targets(row, len(messages), row_id))
            for messages, first in parse_conversations(row, stage, row_id)
        ]
        if stage == "sft":
            traces = tuple(encoder.encode_turns(*conversations[0]))
        else:
            traces = tuple(encoder.encode(*one) for one in conversations)
        problem = _find_problem(traces, stage, max_tokens)
        document_id, question_id = _find_id(row, "document_id"), _find_id(row, "question_id")
        if problem is None and stage == "distill":
            yield Unit(row_id, document_id, traces[:1], traces[1], question_id)
        elif problem is None:
            # The replies of a template that rewrites earlier turns are units of their own.
            units = [(one,) for one in traces] if stage == "sft" else [traces]
            report.split += len(units) > 1
            for number, unit in enumerate(units):
                name = f"{row_id}/{number}" if number else row_id
                yield Unit(name, document_id, unit, question_id=question_id)
        elif refuse_bad_rows:
            raise TrainingError(
                f"Row {row_id} would be dropped: {problem}.",
                hint="With --bad-rows drop such rows are left out, counted and listed.",
            )
        else:
            report.dropped.append((row_id, problem))


def _find_id(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)


def _find_problem(traces: Sequence[Trace], stage: Stage, max_tokens: int) -> str | None:
    """Returns why a row cannot be used, or None."""
    if not traces or not all(trace.num_targets for trace in traces):
        return "with an empty reply"
    if max(map(len, traces)) > max_tokens:
        return f"longer than {max_tokens} tokens"
    if stage == "dpo" and np.array_equal(traces[0].ids, traces[1].ids):
        return "with chosen equal to rejected"
    if stage == "distill" and not np.array_equal(
        traces[0].ids[traces[0].mask], traces[1].ids[traces[1].mask]
    ):
        return "with other reply tokens after the evidence"
    return None


def load_units(
    dataset: str | Path,
    encoder: Encoder,
    stage: Stage,
    split: str,
    *,
    max_tokens: int,
    refuse_bad_rows: bool = False,
    limit: int | None = None,
    self_checks: bool = False,
) -> tuple[list[Unit], EncodeReport]:
    """Loads and encodes a split, or its first `limit` usable rows.

    An SFT split includes the direct answers and the rows that teach pointing alone, where there are
    any, and with `self_checks` the rows that teach the self-check.

    Raises:
        TrainingError: The split does not exist, or none of its rows is usable.
    """
    files = find_rows(dataset, stage, split)
    if not files:
        raise TrainingError(
            f"No {split} rows for {stage} in {dataset}.",
            hint=f"Expected {dataset}/{FOLDERS[stage]}/{split}.parquet (or .jsonl); "
            "agenticlu dataset build RUN writes it.",
        )
    if stage == "sft":
        kinds = ("direct", "point", *(("self_check",) if self_checks else ()))
        files = [*files, *(path for kind in kinds for path in find_extra(dataset, kind, split))]
    report = EncodeReport()
    rows = (row for path in files for row in load_rows(path, error=TrainingError))
    encoded = encode_rows(
        rows, encoder, stage, max_tokens=max_tokens, refuse_bad_rows=refuse_bad_rows, report=report
    )
    units = list(itertools.islice(encoded, limit))
    if not units and split == "train":
        raise TrainingError(f"No row of {files[0]} can be trained on: {report.summary()}.")
    return units, report
