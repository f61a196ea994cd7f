"""Rows of a data set for training: the files of a split, and the conversations of a row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from agenticlu.core.errors import TrainingError
from agenticlu.core.golds import load_json

Stage = Literal["sft", "dpo", "distill"]
Messages = list[dict[str, Any]]
"""Messages with role and content; an assistant's may carry `token_ids`, as the engine sampled."""
FOLDERS: dict[Stage, str] = {"sft": "sft", "dpo": "preference", "distill": "distill"}
MESSAGES_HINT = 'A message is {"role": "user", "content": "..."}.'
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".arrow")
"""Of files of rows, the first that a split has; see `core.files.load_numbered_rows`."""
LARGEST_ID = 2**31 - 1
COLUMNS: dict[Stage, tuple[str, ...]] = {
    "sft": ("messages",),
    "dpo": ("chosen", "rejected"),
    "distill": ("messages", "evidence"),
}


def find_rows(dataset: str | Path, stage: Stage, split: str) -> list[Path]:
    """Returns the files of a split; empty when the data set has no such split.

    Looked for in this order: DATASET/sft|preference|distill/SPLIT.parquet|jsonl or another of
    `ENDINGS`, DATASET/SPLIT.*, DATASET/data/SPLIT-*.parquet (a downloaded hub data set), DATASET
    itself (a file is the train split).
    """
    root = Path(dataset)
    if root.is_file():
        return [root] if split == "train" else []
    names = (split, "test") if split == "validation" else (split,)
    for folder in (root / FOLDERS[stage], root, root / "data"):
        for name in names:
            for suffix in ENDINGS:
                if (folder / f"{name}{suffix}").is_file():
                    return [folder / f"{name}{suffix}"]
            shards = sorted(folder.glob(f"{name}-*.parquet"))
            if shards:
                return shards
    return []


def find_extra(dataset: str | Path, kind: str, split: str) -> list[Path]:
    """Returns the files of rows beside the conversations, DATASET/KIND/SPLIT.*, if any.

    `self_check` teaches the self-check alone, `point` pointing alone, `direct` to answer at once.
    """
    paths = [Path(dataset) / kind / f"{split}{end}" for end in (".parquet", ".jsonl")]
    return [path for path in paths if path.is_file()][:1]


def _parse_messages(row: Mapping[str, Any], column: str, row_id: str) -> Messages:
    value = row.get(column)
    where = f"Row {row_id}: column {column!r}"
    if isinstance(value, str) and column == "messages":  # a cell of a table
        value = load_json(value) or value
    if isinstance(value, str) and column != "messages":
        role = "assistant" if column != "prompt" else "user"
        return [{"role": role, "content": _parse_content(value, where)}]
    if not isinstance(value, list) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value
    ):
        raise TrainingError(
            f"{where} must be a list of messages with role and content.", hint=MESSAGES_HINT
        )
    messages: Messages = []
    for number, message in enumerate(value, 1):
        place = f"{where}, message {number}"
        _refuse_calls(message, place)
        parsed = {"role": message["role"], "content": _parse_content(message.get("content"), place)}
        if message.get("token_ids"):
            parsed["token_ids"] = _parse_token_ids(message["token_ids"], place)
        messages.append(parsed)
    return messages


def _refuse_calls(message: Mapping[str, Any], where: str) -> None:
    """Refuses a message that calls tools: left out, it would teach to say nothing."""
    for key in ("tool_calls", "function_call"):
        if message.get(key):
            raise TrainingError(
                f"{where} has {key}, which are not trained on.",
                hint="Leave such rows out, or write the calls into content as the model should.",
            )


def _parse_content(value: Any, where: str) -> str:
    """Returns a message's text; parts of text, as some servers write them, are joined."""
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value
    ):
        value = "".join(part["text"] for part in value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TrainingError(
            f"{where}: content must be a text, not {type(value).__name__}.", hint=MESSAGES_HINT
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(
            f"{where}: the text holds half a surrogate pair (U+{ord(value[error.start]):04X}) at "
            f"character {error.start + 1}, which no tokenizer takes.",
            hint="Remove it, or write the character whole; text cut within an emoji leaves one.",
        ) from error
    return value


def _parse_token_ids(value: Any, where: str) -> list[int]:
    """Returns the ids that an engine sampled."""
    if not isinstance(value, list) or not all(
        isinstance(one, int) and 0 <= one <= LARGEST_ID for one in value
    ):
        raise TrainingError(
            f"{where}: token_ids must be a list of token ids.",
            hint="Leave token_ids out to have the text tokenised.",
        )
    return list(value)


def parse_conversations(
    row: Mapping[str, Any], stage: Stage, row_id: str
) -> list[tuple[Messages, int]]:
    """Returns the row's conversations, each with the index of its first possible target."""
    if stage == "sft" and "messages" in row:
        return [(_parse_messages(row, "messages", row_id), 0)]
    if stage == "distill":
        messages = _parse_messages(row, "messages", row_id)
        return [(messages, 0), (_show_evidence(messages, row.get("evidence"), row_id), 0)]
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


def _show_evidence(messages: Messages, evidence: object, row_id: str) -> Messages:
    """Returns a conversation whose first request holds the evidence instead of the document."""
    if not isinstance(evidence, str) or not evidence.strip():
        raise TrainingError(
            f"Row {row_id}: evidence must be the text of the first request as the teacher reads it."
        )
    first = next((i for i, one in enumerate(messages) if one["role"] == "user"), None)
    if first is None:
        raise TrainingError(f"Row {row_id} has no request.", hint=MESSAGES_HINT)
    return [*messages[:first], {**messages[first], "content": evidence}, *messages[first + 1 :]]


def parse_targets(row: Mapping[str, Any], count: int, row_id: str) -> Collection[int] | None:
    """Returns the messages to learn, from the column `targets`; None means all."""
    targets = row.get("targets") if "messages" in row else None
    if targets is None:
        return None
    if not isinstance(targets, list):
        raise TrainingError(
            f"Row {row_id}: targets must be a list of message numbers, not {targets!r}.",
            hint="Leave targets out to learn every reply.",
        )
    bad = [t for t in targets if not isinstance(t, int) or not 0 <= t < count]
    if bad:
        raise TrainingError(
            f"Row {row_id}: targets includes message {bad[0]!r}, but there are {count} messages."
        )
    return frozenset(targets)
