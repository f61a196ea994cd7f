"""Documents: loaded from files, cut into pieces, shown with markers, and cited.

Characters are counted in `Document.text`; every piece, page and citation is a span of it.
"""

from agenticlu.documents.load import load_document
from agenticlu.documents.pieces import (
    DEFAULT_PIECE_TOKENS,
    NO_MARKS,
    Marks,
    mark,
    neutralise,
    parse_marks,
    render_marks,
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
    "parse_marks",
    "render_marks",
    "render_piece",
    "split",
]
