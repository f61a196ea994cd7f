"""Reads HELMET's files: its data, the hub data sets it uses, key points and result files."""

from __future__ import annotations

import functools
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from agenticlu.core.errors import ConfigError, UsageError, missing_dependency
from agenticlu.core.files import Row, require_row, starts_array
from agenticlu.core.files import load_rows as load_file_rows
from agenticlu.evaluation.helmet import (
    HUB_SETS,
    SPECS,
    Spec,
    Template,
    find_file,
    load_templates,
    sampling,
)

T = TypeVar("T")
OMISSION = " ... [the rest of the text is omitted]"
"""Marks where a document is cut, as in HELMET (data.py:162); part of what is measured."""
LLAMA2 = "meta-llama/Llama-2-7b-hf"
"""The tokenizer that HELMET measures and cuts documents with."""
KEY_POINTS = {
    "infbench_sum_eng": ("data/infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("data/multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}
"""Summary task to its file of key points and their column."""


def read_rows(path: Path) -> list[Row]:
    """Reads a JSONL file, a JSON list of objects, or the list `data` of a JSON object.

    Raises:
        UsageError: The file does not exist.
        ConfigError: It cannot be read, a row is not a JSON object, or there is none.
    """
    if not path.is_file():
        raise UsageError(
            f"HELMET file not found: {str(path)!r}.{describe_similar_files(path)}",
            hint="Give the folder that holds HELMET's data/ by --helmet-data FOLDER; see "
            "docs/evaluation.md for where to get it.",
        )
    if path.suffix == ".json" and path.stat().st_size and not starts_array(path):
        content = read_json(path)
        rows = content.get("data") if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ConfigError(f"{path} must hold a list of objects.")
    else:
        rows = list(load_file_rows(path, error=ConfigError))
    if not rows:
        raise ConfigError(f"{path} has no rows.")
    return rows


def describe_similar_files(path: Path) -> str:
    """Names the files that differ from a missing one in their number of passages or pairs."""
    pattern = re.sub(r"_k\d+_", "_k*_", path.name)
    found = sorted(other.name for other in path.parent.glob(pattern)) if "*" in pattern else []
    return f" Similar files there: {', '.join(found)}." if found else ""


def load_split(root: Path, name: str, split: str, config: str | None = None) -> list[Row]:
    """Returns a split of a hub data set, from the folder of that name below `root` if there is one.

    The file of a split is the one that the YAML head of the folder's README.md names, else the one
    named like the split. Other layouts, and data sets without a folder, are left to the `datasets`
    package, which looks into the folder, its cache or the hub.

    Raises:
        UsageError: The data set or the split cannot be found.
    """
    folder = root / name
    file = _find_file(folder, split, config) if folder.is_dir() else None
    if file is not None:
        return read_rows(file)
    return list(_load_dataset(root, name, split, config))


def _load_dataset(root: Path, name: str, split: str, config: str | None) -> Any:
    """Loads a split by the package `datasets`."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_dependency("datasets", "hub") from error
    folder = root / name
    source = str(folder) if folder.is_dir() else name
    features = None
    if (
        name == HUB_SETS["infbench"]
    ):  # columns that are empty in one split only defeat type inference
        text = datasets.Value("string")
        columns = {"context": text, "input": text}
        lists = {"answer": [text], "options": [text]}
        features = datasets.Features({"id": datasets.Value("int64"), **columns, **lists})
    try:
        return datasets.load_dataset(source, config, split=split, features=features)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        raise UsageError(
            f"Cannot find the split {split!r} of the data set {name!r} below {str(root)!r} or on "
            f"the hub: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}",
            hint=f"Put its files into {str(folder)!r}, one JSONL file per split, such as "
            f"{split}.jsonl.",
        ) from error


def load_label_names(root: Path, name: str, field: str, config: str | None = None) -> list[str]:
    """Returns the names of a label column: from the README's head, else from the data set.

    Raises:
        UsageError: Neither has them.
    """
    readme = root / name / "README.md"
    if readme.is_file():
        _, _, rest = _head(readme).partition(f"- name: {field}\n")
        found = re.search(r"^[ \t]+names:\n((?:[ \t]+'\d+': .*\n?)+)", rest, re.MULTILINE)
        if found:
            names = re.findall(r"'(\d+)': '?(.*?)'?$", found[1], re.MULTILINE)
            return [label for _, label in sorted(names, key=lambda pair: int(pair[0]))]
    elif not readme.parent.is_dir():
        feature = _load_dataset(root, name, "train", config).features.get(field)
        if getattr(feature, "names", None):
            return list(feature.names)
    raise UsageError(
        f"Label names not found for column {field!r} of {name!r}.",
        hint=f"Add them to the head of {str(readme)!r} as class_label names, as on the hub.",
    )


def _head(readme: Path) -> str:
    """Returns the YAML head of a data set's README.md."""
    parts = readme.read_text(encoding="utf-8").split("---")
    return parts[1] if len(parts) > 2 else ""


def _find_file(folder: Path, split: str, config: str | None) -> Path | None:
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
    """Returns the counter for a folder; a book is tokenised once, not once for each question."""
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
        try:  # tokenizers raises bare Exception for malformed files and failed downloads alike
            if file.is_file():
                self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
            else:
                self._tokenizer = tokenizers.Tokenizer.from_pretrained(path or LLAMA2)
        except Exception as error:
            if file.is_file():
                raise ConfigError(f"{str(file)!r} is not a tokenizer file: {error}") from error
            raise UsageError(
                f"HELMET counts documents with the tokenizer {path or LLAMA2!r}, which is neither "
                "on this disk nor available from the hub.",
                hint="Give the folder of its tokenizer.json, or of another one, by "
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
        """Returns the text, cut to about `num_tokens`, which include the omission marker."""
        assert num_tokens > self.count(OMISSION), "an index from the end would keep nearly all"
        ends = self._offsets(text)
        if len(ends) <= num_tokens:
            return text
        return text[: ends[num_tokens - self.count(OMISSION)]] + OMISSION


def load_key_points(root: Path, task: str) -> dict[str, tuple[str, ...]]:
    """Returns the key points of a summary task by row id.

    Raises:
        UsageError: The file is not below `root`.
        ConfigError: A row lacks its id or its key points.
    """
    path, column = KEY_POINTS[task]
    found = {}
    for number, row in enumerate(read_rows(root / path), start=1):
        if "id" not in row or not isinstance(row.get(column), list):
            raise ConfigError(f"Row {number} of {root / path} lacks 'id' or {column!r}.")
        found[str(row["id"])] = tuple(map(str, row[column]))
    return found


@dataclass(frozen=True)
class RowRequest:
    """A request for rows of a HELMET task."""

    name: str
    length: int
    root: Path
    num: int | None = None
    """max_test_samples; None takes HELMET's."""
    shots: int | None = None
    """None takes HELMET's."""
    templates: str | None = None
    """File of other wordings."""
    tokenizer: str | None = None
    """Folder of another tokenizer in place of Llama 2's."""
    seed: int = sampling.SEED
    """Any other seed draws rows and demonstrations that are not HELMET's."""

    @property
    def spec(self) -> Spec:
        """The task's specification."""
        return SPECS[self.name]

    @property
    def num_rows(self) -> int:
        """Maximum rows, or questions."""
        return self.spec.rows if self.num is None else self.num

    @property
    def num_shots(self) -> int:
        """Demonstrations."""
        return self.spec.shots if self.shots is None else self.shots

    def template(self, name: str) -> Template:
        """Returns the template of that name."""
        return load_templates(self.templates)[name]

    def file(self) -> Path:
        """Returns the path of the test file."""
        return self.root / find_file(self.spec, self.length)

    def load_rows(self) -> list[Row]:
        """Returns the rows of the test file."""
        return read_rows(self.file())

    def load_demos(self) -> list[Row]:
        """Returns the rows that demonstrations are drawn from; none where none is shown."""
        return read_rows(self.root / self.spec.demo_file) if self.num_shots else []

    def shuffle(self, rows: Sequence[T]) -> list[T]:
        """Returns the first rows of the permutation, as many as are wanted."""
        return sampling.shuffled(rows, self.seed)[: self.num_rows]

    def require_shots(self, found: Sequence[T], where: str = "") -> Sequence[T]:
        """Returns demonstrations, if there are as many as are to be shown.

        Raises:
            UsageError: There are fewer.
        """
        if len(found) < self.num_shots:
            raise UsageError(
                f"{self.name}{where}: {self.num_shots} demonstrations are needed, but only "
                f"{len(found)} can be drawn.",
                hint=f"Try --shots {len(found)}.",
            )
        return found

    def draw_demos(self, pool: Sequence[T], seed: int) -> Sequence[T]:
        """Returns the demonstrations of one row: the first of a permutation."""
        return self.require_shots(sampling.shuffled(pool, seed)[: self.num_shots])


RESULT_HINT = "agenticlu eval writes result files of HELMET's tasks to OUT/helmet."


@dataclass(frozen=True)
class ResultFile:
    """A result file in HELMET's layout."""

    path: Path
    args: Mapping[str, Any]
    rows: Sequence[Row]
    """At least one."""
    content: Mapping[str, Any]
    """The whole file."""

    def value(self, index: int, column: str, kind: type | tuple[type, ...]) -> Any:
        """Returns a column of a row.

        Raises:
            ConfigError: The row lacks it, or it is of another type.
        """
        found = self.rows[index].get(column)
        if not isinstance(found, kind):
            self.refuse(index, column)
        return found

    def refuse(self, index: int, column: str) -> NoReturn:
        """Raises ConfigError for a row whose column is missing or cannot be used."""
        absent = self.rows[index].get(column) is None
        state = "lacks" if absent else "has an unusable value in"
        raise ConfigError(f"Row {index + 1} of {self.path} {state} the column {column!r}.")

    def find_task(self) -> str:
        """Returns HELMET's task, from the arguments or the name of the file.

        Raises:
            UsageError: It names none of HELMET's data sets.
        """
        options = self.args.get("dataset_options")
        given = self.args.get("datasets")
        given = given or (options.get("datasets") if isinstance(options, dict) else None)
        given = given[0] if isinstance(given, list) and given else given
        name = given if isinstance(given, str) and given else self.path.name
        # The longest name first: alce_asqa is part of alce_asqa_nocite.
        names = {task: task for task in sorted(SPECS, key=len, reverse=True)}
        names |= {"popqa": "kilt_popqa_3", "nq": "kilt_nq"}
        names |= {"hotpotqa": "kilt_hotpotqa", "triviaqa": "kilt_triviaqa"}
        for part, task in names.items():
            if part in name:
                return task
        raise UsageError(
            f"{self.path}: {name!r} is not one of HELMET's data sets.",
            hint="Name a scoring rule: agenticlu eval score FILE --rule open",
        )


def read_result(path: Path) -> ResultFile:
    """Reads a result file in HELMET's layout.

    Raises:
        UsageError: The file does not exist, is empty or holds JSON lines.
        ConfigError: It is not UTF-8, not JSON, not in HELMET's layout, or has no rows.
    """
    if path.suffix == ".jsonl" and path.is_file():
        raise UsageError(
            f"{path} holds JSON lines; a result file of HELMET is one JSON object.",
            hint=RESULT_HINT,
        )
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ConfigError(
            f"{path} is not a result file of HELMET: it has no list 'data'.", hint=RESULT_HINT
        )
    if not content["data"]:
        raise ConfigError(f"{path} has no rows: its 'data' is empty.")
    args = content.get("args", {})
    if not isinstance(args, dict):
        raise ConfigError(f"{path}: 'args' is not a JSON object.")
    rows = [
        require_row(row, f"Row {number} of {path}", ConfigError)
        for number, row in enumerate(content["data"], start=1)
    ]
    return ResultFile(path=path, args=args, rows=rows, content=content)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UsageError: The file does not exist or is empty.
        ConfigError: It cannot be read, is not UTF-8 or not JSON.
    """
    if not path.is_file():
        raise UsageError(f"File not found: {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise UsageError(f"The file {str(path)!r} is empty.")
        return json.loads(text)
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not JSON in UTF-8 ({error}).",
            hint="It may have been cut off: write or copy it again.",
        ) from error
