"""Reads HELMET's files and the hub data sets it uses, from a folder or from the hub."""

from __future__ import annotations

import functools
import json
import re
from array import array
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError, missing_dependency

OMISSION = " ... [the rest of the text is omitted]"
"""Put where a document is cut, as in HELMET (data.py:162); part of what is measured."""
LLAMA2 = "meta-llama/Llama-2-7b-hf"
"""The tokenizer that HELMET measures and cuts documents with."""


INFINITEBENCH = "xinrongzhang2022/infinitebench"
HubRow = dict[str, Any]


def read_rows(path: Path) -> list[HubRow]:
    """Reads a JSONL file or a JSON list of objects.

    Raises:
        UsageError: There is no such file.
        ConfigError: It cannot be read, a line is no JSON object, or it has no row.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no HELMET file {str(path)!r}.{others_of(path)}",
            hint="Give the folder that holds HELMET's data/ by --helmet-data FOLDER; see "
            "docs/evaluation.md for where to get it.",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not UTF-8 text.") from error
    rows = _json_list(path, text) if path.suffix == ".json" else _json_lines(path, text)
    if not rows:
        raise ConfigError(f"{str(path)!r} holds no rows.")
    return rows


def others_of(path: Path) -> str:
    """Names the files that differ from an absent one in their number of passages or pairs."""
    pattern = re.sub(r"_k\d+_", "_k*_", path.name)
    found = sorted(other.name for other in path.parent.glob(pattern)) if "*" in pattern else []
    return f" Of its kind there are {', '.join(found)}." if found else ""


def _json_list(path: Path, text: str) -> list[HubRow]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not JSON: {error}.") from error
    if isinstance(rows, dict):
        rows = rows.get("data", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{str(path)!r} must hold a list of objects.")
    return rows


def _json_lines(path: Path, text: str) -> list[HubRow]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}, is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}, is no JSON object.")
        rows.append(row)
    return rows


def load_split(root: Path, name: str, split: str, config: str | None = None) -> list[HubRow]:
    """Returns a split of a hub data set, from the folder of that name below `root` if there is one.

    Which file is which split is read from the YAML head of the folder's README.md, else from the
    files' names. Other layouts, and data sets that have no folder, are left to the `datasets`
    package, which looks into the folder, its cache or the hub.

    Raises:
        UsageError: The data set, or the split, is not to be had.
    """
    folder = root / name
    file = _file_of(folder, split, config) if folder.is_dir() else None
    if file is not None:
        return read_rows(file)
    return list(_dataset(root, name, split, config))


def _dataset(root: Path, name: str, split: str, config: str | None) -> Any:
    """Loads a split by the package `datasets`."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_dependency("datasets", "hub") from error
    folder = root / name
    source = str(folder) if folder.is_dir() else name
    features = None
    if name == INFINITEBENCH:  # its splits differ in what is left empty, so guessing types fails
        text = datasets.Value("string")
        columns = {"context": text, "input": text}
        lists = {"answer": [text], "options": [text]}
        features = datasets.Features({"id": datasets.Value("int64"), **columns, **lists})
    try:
        return datasets.load_dataset(source, config, split=split, features=features)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        raise UsageError(
            f"The data set {name!r}, split {split!r}, is neither below {str(root)!r} nor to be had "
            f"from the hub: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}",
            hint=f"Put its files into {str(folder)!r}, one JSONL file per split, such as "
            f"{split}.jsonl.",
        ) from error


def label_names(root: Path, name: str, field: str, config: str | None = None) -> list[str]:
    """Returns the names of a label column: from the README's head, else from the data set.

    Raises:
        UsageError: They are in neither.
    """
    readme = root / name / "README.md"
    if readme.is_file():
        found = re.search(
            rf"- name: {re.escape(field)}\n(?:.*\n)*?\s+names:\n((?:\s+'\d+': .*\n?)+)",
            _head(readme),
        )
        if found:
            names = re.findall(r"'(\d+)': '?(.*?)'?$", found[1], re.MULTILINE)
            return [label for _, label in sorted(names, key=lambda pair: int(pair[0]))]
    elif not readme.parent.is_dir():
        feature = _dataset(root, name, "train", config).features.get(field)
        if getattr(feature, "names", None):
            return list(feature.names)
    raise UsageError(
        f"The names of the labels in column {field!r} of {name!r} are not known.",
        hint=f"Add them to the head of {str(readme)!r} as class_label names, as on the hub.",
    )


def _head(readme: Path) -> str:
    """Returns the YAML head of a data set's README.md."""
    parts = readme.read_text(encoding="utf-8").split("---")
    return parts[1] if len(parts) > 2 else ""


def _file_of(folder: Path, split: str, config: str | None) -> Path | None:
    """Returns the JSON file of a split; None where the folder has none."""
    readme = folder / "README.md"
    names = [f"{split}.jsonl", f"{split}.json"]
    if readme.is_file():
        head = _head(readme)
        if config is not None and f"config_name: {config}\n" in head:
            head = head.split(f"config_name: {config}\n")[1].split("config_name:")[0]
        found = re.search(rf"- split: {re.escape(split)}\n\s+path: (\S+\.jsonl?)\n", head)
        names = [found[1], *names] if found else names
    return next((folder / name for name in names if (folder / name).is_file()), None)


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
        try:  # the package raises bare Exception for every malformed file and every failed fetch
            if file.is_file():
                self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
            else:
                self._tokenizer = tokenizers.Tokenizer.from_pretrained(path or LLAMA2)
        except Exception as error:
            if file.is_file():
                raise ConfigError(f"{str(file)!r} is not a tokenizer file: {error}") from error
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
        """Returns the text, cut so that with the omission marker it has about `num_tokens`.

        These must be more than the marker's own.
        """
        assert num_tokens > self.count(OMISSION), "an index from the end would keep nearly all"
        ends = self._offsets(text)
        if len(ends) <= num_tokens:
            return text
        return text[: ends[num_tokens - self.count(OMISSION)]] + OMISSION


FILES = {
    "infbench_sum_eng": ("data/infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("data/multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}


def load_key_points(root: Path, task: str) -> dict[str, tuple[str, ...]]:
    """Returns the key points of a summary task by row id.

    Raises:
        UsageError: The file is not below `root`.
        ConfigError: A row of it lacks its id or its key points.
    """
    path, column = FILES[task]
    found = {}
    for number, row in enumerate(read_rows(root / path), start=1):
        if "id" not in row or not isinstance(row.get(column), list):
            raise ConfigError(f"{str(root / path)!r}: row {number} lacks 'id' or {column!r}.")
        found[str(row["id"])] = tuple(map(str, row[column]))
    return found
