"""Encodes rows of conversations: the token ids of each trace, and which of them are targets.

The conversation is rendered by the model's own chat template, turn by turn; what a turn adds to
the text is what the template adds, never what a search finds. Each addition is tokenised by
itself, as a model continuing the prompt sees it, so prompts are prefixes of traces in ids as well
as in text. Text that many rows share (a document) is tokenised and kept once.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agenticlu.core.errors import TrainingError
from agenticlu.core.files import load_rows
from agenticlu.engines.local.checkpoint import TEMPLATE_OPTIONS

Stage = Literal["sft", "dpo"]
Turns = Literal["all", "last"]
Ids = npt.NDArray[np.int32]
Messages = list[dict[str, Any]]
"""Messages with role and content; an assistant's may carry `token_ids`, as the engine sampled."""
FOLDERS: dict[Stage, str] = {"sft": "sft", "dpo": "preference"}
COLUMNS: dict[Stage, tuple[str, ...]] = {"sft": ("messages",), "dpo": ("chosen", "rejected")}


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


@dataclass
class EncodeReport:
    """Counts of rows used and dropped."""

    rows: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """Row id and reason, in order."""

    @property
    def reasons(self) -> Counter[str]:
        """Number of rows dropped for each reason."""
        return Counter(reason for _, reason in self.dropped)

    def summary(self) -> str:
        """Returns one line for people."""
        if not self.dropped:
            return f"{self.rows} rows, none dropped"
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
        first = ", ".join(row for row, _ in self.dropped[:3])
        return f"{self.rows} rows, {len(self.dropped)} dropped ({why}; first: {first})"


def find_rows(dataset: str | Path, stage: Stage, split: str) -> list[Path]:
    """Returns the files of a split; empty when the data set has no such split.

    Looked for in this order: DATASET/sft|preference/SPLIT.parquet|jsonl, DATASET/SPLIT.*,
    DATASET/data/SPLIT-*.parquet (a downloaded hub data set), DATASET itself (a file is the train
    split).
    """
    root = Path(dataset)
    if root.is_file():
        return [root] if split == "train" else []
    names = (split, "test") if split == "validation" else (split,)
    for folder in (root / FOLDERS[stage], root, root / "data"):
        for name in names:
            for suffix in (".parquet", ".jsonl"):
                if (folder / f"{name}{suffix}").is_file():
                    return [folder / f"{name}{suffix}"]
            shards = sorted(folder.glob(f"{name}-*.parquet"))
            if shards:
                return shards
    return []


def find_self_checks(dataset: str | Path, split: str) -> list[Path]:
    """Returns the files of rows that teach the self-check alone, DATASET/self_check/SPLIT.*."""
    paths = [Path(dataset) / "self_check" / f"{split}{end}" for end in (".parquet", ".jsonl")]
    return [path for path in paths if path.is_file()][:1]


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
        self._checks_left = 3
        self._piecewise = True

    def render(self, messages: Messages, *, prompt: bool) -> str:
        """Returns the text of a conversation; with `prompt`, up to where the model writes."""
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": m["role"], "content": m["content"]} for m in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                # Some templates write today's date otherwise, and the ids would depend on it.
                date_string=TEMPLATE_OPTIONS["date_string"],
            )
        except Exception as error:  # templates may raise anything
            if type(error).__module__.partition(".")[0] not in ("jinja2", "builtins"):
                raise
            roles = ", ".join(message["role"] for message in messages)
            raise TrainingError(
                f"The chat template rejects a conversation with the roles {roles}: {error}"
            ) from error
        assert isinstance(text, str)
        return text

    def _disarm(self, text: str) -> str:
        """Breaks control tokens in a message, as engines do before they render one.

        A document may hold '<|end|>' as plain words; taken for the token, it would end the turn.
        """
        if self._split is None:
            return text
        return self._split.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def encode(
        self, messages: Messages, first_target: int = 0, targets: Collection[int] | None = None
    ) -> Trace:
        """Encodes one conversation.

        Args:
            messages: The conversation.
            first_target: Assistant messages before this index are context, never targets.
            targets: Indices of the messages that may be targets; None means all replies. A search
                path may pass through a wrong answer, which must not be learned.

        Returns:
            The trace, cut after its last target; without targets when there is nothing to learn.

        Raises:
            TrainingError: The template rewrites earlier turns, doubles BOS, or hides a reply.
        """
        messages = [
            {**message, "content": self._disarm(message["content"])} for message in messages
        ]
        replies = [
            index
            for index, message in enumerate(messages)
            if index >= first_target
            and message["role"] == "assistant"
            and (targets is None or index in targets)
        ]
        if self.turns == "last":
            replies = replies[-1:]
        if not replies or not any(messages[index]["content"].strip() for index in replies):
            return Trace((), ())
        parts = self._render_turns(messages, replies)
        sampled = [ids for index in replies for ids in (None, messages[index].get("token_ids"))]
        encoded = [
            self._encode_text(part) if ids is None else self._encode_reply(part, ids)
            for part, ids in zip(parts, sampled, strict=True)
        ]
        # Some tokenizers treat the start of a text specially; a few rows show whether one does.
        if self._checks_left and not any(sampled):
            self._checks_left -= 1
            self._piecewise = self._piecewise and self._agrees(parts, encoded)
        if not self._piecewise:
            encoded = self._encode_whole(parts)
        trace = self._mark_targets(encoded)
        self._check_bos(trace)
        return trace

    def _render_turns(self, messages: Messages, replies: Sequence[int]) -> list[str]:
        """Returns what each prompt and each reply adds to the text, in turn."""
        text = ""
        parts: list[str] = []
        for index in replies:
            before = self.render(messages[:index], prompt=True)
            after = self.render(messages[: index + 1], prompt=False)
            if not (before.startswith(text) and after.startswith(before)):
                raise self._unstable(text, before, after, index)
            parts += [before[len(text) :], after[len(before) :]]
            text = after
        return parts

    def _mark_targets(self, encoded: list[list[Ids]]) -> Trace:
        """Joins the chunks of prompts and replies, in turn; cut after the last target."""
        pieces: list[Ids] = []
        spans: list[tuple[int, int]] = []
        position = 0
        for number, chunks in enumerate(encoded):
            ids = np.concatenate(chunks) if chunks else np.empty(0, np.int32)
            if number % 2:  # a reply: a target up to its last end token
                stops = np.flatnonzero(np.isin(ids, list(self.stop_ids)))
                length = int(stops[-1]) + 1 if len(stops) else len(ids)
                if length:
                    spans.append((position, position + length))
            pieces += chunks
            position += len(ids)
        if not spans:
            raise TrainingError(
                "The chat template leaves no target: rendering the assistant's turn adds no token.",
                hint="It may drop assistant messages; check what it renders.",
            )
        return Trace(tuple(_cut(pieces, spans[-1][1])), tuple(spans))

    def _check_bos(self, trace: Trace) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is None or bos in self.stop_ids:
            return
        places = np.flatnonzero(trace.ids == bos)
        if len(places) > 1 or (len(places) == 1 and places[0] != 0):
            raise TrainingError(
                f"A trace holds {len(places)} begin-of-text tokens, at positions "
                f"{places[:4].tolist()}; one at position 0 is allowed.",
                hint="The chat template writes it twice.",
            )

    def _unstable(self, text: str, before: str, after: str, index: int) -> TrainingError:
        short, long = (text, before) if not before.startswith(text) else (before, after)
        at = next(
            (i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(long)
        )
        return TrainingError(
            f"The chat template is not prefix-stable: with message {index} it changes what it "
            f"wrote before, at character {at} ({short[max(0, at - 20) : at + 20]!r} becomes "
            f"{long[max(0, at - 20) : at + 20]!r}).",
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


def _cut(pieces: list[Ids], length: int) -> Iterator[Ids]:
    for piece in pieces:
        if length <= 0:
            return
        yield piece if len(piece) <= length else piece[:length]
        length -= len(piece)


def _parse_messages(row: Mapping[str, Any], column: str, row_id: str) -> Messages:
    value = row.get(column)
    if isinstance(value, str):
        return [{"role": "assistant" if column != "prompt" else "user", "content": value}]
    if not isinstance(value, list) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value
    ):
        raise TrainingError(
            f"Row {row_id}: column {column!r} must be a list of messages with role and content."
        )
    return [
        {"role": m["role"], "content": m.get("content") or ""}
        | ({"token_ids": list(m["token_ids"])} if m.get("token_ids") else {})
        for m in value
    ]


def _parse_conversations(
    row: Mapping[str, Any], stage: Stage, row_id: str
) -> list[tuple[Messages, int]]:
    """Returns the row's conversations, each with the index of its first possible target."""
    if stage == "sft" and "messages" in row:
        return [(_parse_messages(row, "messages", row_id), 0)]
    if stage == "sft":
        prompt = _parse_messages(row, "prompt", row_id)
        reply = "completion" if "completion" in row else "chosen"
        return [(prompt + _parse_messages(row, reply, row_id), len(prompt))]
    chosen, rejected = (
        _parse_messages(row, "chosen", row_id),
        _parse_messages(row, "rejected", row_id),
    )
    if row.get("prompt") is not None:
        prompt = _parse_messages(row, "prompt", row_id)
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
            return [(chosen, len(prompt)), (rejected, len(prompt))]
        return [(prompt + chosen, len(prompt)), (prompt + rejected, len(prompt))]
    common = 0
    while common < min(len(chosen), len(rejected)) - 1 and chosen[common] == rejected[common]:
        common += 1
    if common == 0 or chosen[common]["role"] != "assistant" != rejected[common]["role"]:
        raise TrainingError(
            f"Row {row_id}: chosen and rejected do not answer the same prompt.",
            hint="Add a prompt column, or make the conversations equal up to the replies.",
        )
    return [(chosen, common), (rejected, common)]


def _parse_targets(row: Mapping[str, Any], count: int, row_id: str) -> Collection[int] | None:
    """Returns the messages to learn, from the column `targets`; None means all."""
    targets = row.get("targets") if "messages" in row else None
    if targets is None:
        return None
    bad = [t for t in targets if not isinstance(t, int) or not 0 <= t < count]
    if bad:
        raise TrainingError(
            f"Row {row_id}: targets includes message {bad[0]!r}, but there are {count} messages."
        )
    return frozenset(targets)


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
        traces = tuple(
            encoder.encode(messages, first, _parse_targets(row, len(messages), row_id))
            for messages, first in _parse_conversations(row, stage, row_id)
        )
        problem = None
        if not all(trace.num_targets for trace in traces):
            problem = "with an empty reply"
        elif max(map(len, traces)) > max_tokens:
            problem = f"longer than {max_tokens} tokens"
        elif len(traces) == 2 and np.array_equal(traces[0].ids, traces[1].ids):
            problem = "with chosen equal to rejected"
        if problem is None:
            document = row.get("document_id")
            yield Unit(row_id, None if document is None else str(document), traces)
        elif refuse_bad_rows:
            raise TrainingError(
                f"Row {row_id} would be dropped: {problem}.",
                hint="With --bad-rows drop such rows are left out, counted and listed.",
            )
        else:
            report.dropped.append((row_id, problem))


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

    With `self_checks` an SFT split includes the rows that teach the self-check.

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
    if stage == "sft" and self_checks:
        files = [*files, *find_self_checks(dataset, split)]
    report = EncodeReport()
    rows = (row for path in files for row in load_rows(path, error=TrainingError))
    encoded = encode_rows(
        rows, encoder, stage, max_tokens=max_tokens, refuse_bad_rows=refuse_bad_rows, report=report
    )
    units = list(itertools.islice(encoded, limit))
    if not units and split == "train":
        raise TrainingError(f"No row of {files[0]} can be trained on: {report.summary()}.")
    return units, report
