"""What the writer of rows keeps small."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet

from agenticlu.data.rows import RowWriter

COLUMNS = {"prompt": "messages", "document_id": "text"}


def test_long_documents_are_stored_once_in_a_group_too(tmp_path: Path):
    """A dictionary of the usual size is full after the first of them, and the rest is repeated."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("abcdefgh ", k=700_000)) for _ in range(4)]
    writer = RowWriter(tmp_path / "rows.parquet", COLUMNS)  # type: ignore[arg-type]
    for number, text in enumerate(texts):
        for _ in range(5):
            message = {"role": "user", "content": text}
            writer.write({"prompt": [message], "document_id": str(number)})
    writer.close()
    metadata = pyarrow.parquet.ParquetFile(tmp_path / "rows.parquet").metadata
    assert metadata.num_row_groups == 1
    column = metadata.row_group(0).column(1)
    assert column.path_in_schema.endswith("content")
    held = sum(map(len, texts))
    assert held < column.total_uncompressed_size < 1.1 * held
