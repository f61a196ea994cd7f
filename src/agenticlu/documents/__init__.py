"""Documents: loading from files and addresses, pieces, paragraph markers, token counts, citations.

Characters are counted in `Document.text`; every piece, page and citation is a span of it.
"""

from __future__ import annotations

from agenticlu.documents.loading import load_document
from agenticlu.documents.pieces import (
    DEFAULT_PIECE_TOKENS,
    NO_MARKS,
    Marks,
    mark,
    neutralise,
    neutralise_controls,
    parse_marks,
    render_marks,
    render_part,
    render_piece,
    split,
)

__all__ = [
    "DEFAULT_PIECE_TOKENS",
    "NO_MARKS",
    "Marks",
    "load_document",
    "mark",
    "neutralise",
    "neutralise_controls",
    "parse_marks",
    "render_marks",
    "render_part",
    "render_piece",
    "split",
]
