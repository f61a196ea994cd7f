"""Reads HELMET's files and the hub data sets it uses, from a folder or from the hub."""

from __future__ import annotations

import functools
import json
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agenticlu.errors import ConfigError, UsageError, missing_dependency

OMISSION = " ... [the rest of the text is omitted]"
"""Put where a document is cut, as in HELMET (data.py:162); part of what is measured."""
LLAMA2 = "meta-llama/Llama-2-7b-hf"
"""The tokenizer that HELMET measures and cuts documents with."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads a JSONL file or a JSON list of objects.

    Raises:
        UsageError: There is no such file.
        ConfigError: A line is no JSON object.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no HELMET file {str(path)!r}.",
            hint="Give the folder that holds HELMET's data/ by --helmet-data FOLDER; see "
            "docs/evaluation.md for where to get it.",
        )
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(rows, dict):
            rows = rows.get("data", [])
        return list(rows)
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ConfigError(f"{path}, line {number}, is not JSON: {error}.") from error
    return rows


def load_split(
    root: Path, name: str, split: str, config: str | None = None
) -> list[dict[str, Any]]:
    """Returns a split of a hub data set, from the folder of that name below `root` if there is one.

    Which file is which split is read from the YAML head of the folder's README.md, else from the
    files' names. Without a folder the `datasets` package loads it from its cache or the hub.
    """
    folder = root / name
    if folder.is_dir():
        return read_rows(_file_of(folder, split))
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_dependency("datasets", "evaluate") from error
    try:
        return list(datasets.load_dataset(name, config, split=split))
    except (OSError, ValueError, ConnectionError) as error:
        raise UsageError(
            f"The data set {name!r} is neither below {str(root)!r} nor to be had from the hub: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint=f"Put its files into {str(folder)!r}, one JSONL file per split.",
        ) from error


def label_names(root: Path, name: str, field: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of a label column: from the README's head, else the numbers themselves."""
    readme = root / name / "README.md"
    if readme.is_file():
        head = readme.read_text(encoding="utf-8").split("---")[1]
        found = re.search(
            rf"- name: {re.escape(field)}\n(?:.*\n)*?\s+names:\n((?:\s+'\d+': .*\n?)+)", head
        )
        if found:
            names = re.findall(r"'(\d+)': '?(.*?)'?$", found[1], re.MULTILINE)
            return [label for _, label in sorted(names, key=lambda pair: int(pair[0]))]
    return [str(i) for i in range(1 + max(int(row[field]) for row in rows))]


def _file_of(folder: Path, split: str) -> Path:
    readme = folder / "README.md"
    if readme.is_file():
        parts = readme.read_text(encoding="utf-8").split("---")
        head = parts[1] if len(parts) > 2 else ""
        found = re.search(rf"- split: {re.escape(split)}\n\s+path: (\S+)", head)
        if found:
            return folder / found[1]
    for ending in ("jsonl", "json"):
        if (folder / f"{split}.{ending}").is_file():
            return folder / f"{split}.{ending}"
    raise UsageError(
        f"{str(folder)!r} has no split {split!r}.", hint=f"Add a file {split}.jsonl there."
    )


@functools.lru_cache(maxsize=4)
def load_llama2(root: Path, path: str | None = None) -> Llama2:
    """Returns the counter for a folder; a book is tokenised once, not once per question."""
    return Llama2(root, path)


class Llama2:
    """Counts tokens and cuts documents as HELMET does; the start token counts.

    Args:
        root: Folder below which the tokenizer's folder may lie.
        path: Folder or name of another tokenizer, for those without access to Llama 2's.
    """

    def __init__(self, root: Path, path: str | None = None) -> None:
        import tokenizers

        local = Path(path) if path else root / LLAMA2
        file = local / "tokenizer.json" if local.is_dir() else local
        if file.is_file():
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        else:
            try:
                self._tokenizer = tokenizers.Tokenizer.from_pretrained(path or LLAMA2)
            except Exception as error:
                raise UsageError(
                    f"HELMET counts documents with the tokenizer {path or LLAMA2!r}, which is "
                    "neither here nor to be had from the hub.",
                    hint="Give the folder of its tokenizer.json, or another one, by "
                    "--helmet-tokenizer FOLDER.",
                ) from error
        self._tokenizer.no_truncation()
        self._offsets = functools.lru_cache(maxsize=64)(self._encode)

    def _encode(self, text: str) -> array[int]:
        """Returns where each token ends."""
        return array("L", (end for _, end in self._tokenizer.encode(text).offsets))

    def count(self, text: str) -> int:
        """Returns the number of tokens."""
        return len(self._offsets(text))

    def cut(self, text: str, num_tokens: int) -> str:
        """Returns the text, cut so that with the omission marker it has about `num_tokens`."""
        ends = self._offsets(text)
        if len(ends) <= num_tokens:
            return text
        return text[: ends[num_tokens - self.count(OMISSION)]] + OMISSION
