"""Agentic long-context understanding: ask, generate, train and evaluate chains of clarifications.

    import agenticlu

    answer = agenticlu.ask("report.pdf", "Who signed?", model="./my-model")

Names are imported on first use, so `import agenticlu` loads nothing heavy. The method is
that of AgenticLU (arXiv 2502.15920).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agenticlu.core.errors import AgenticluError
    from agenticlu.core.records import Document, Prices, Question
    from agenticlu.data.corpus import load_corpus
    from agenticlu.dialogue.answer import Answer
    from agenticlu.dialogue.api import Reader, ask, ask_async
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.documents import load_document, split
    from agenticlu.documents.citations import Citation
    from agenticlu.documents.rectangles import Rectangle, rectangles_of
    from agenticlu.documents.tokens import load_tokenizer
    from agenticlu.engines import load_engine
    from agenticlu.search.store import Store

_HOMES = {
    "AgenticluError": "core.errors",
    "Answer": "dialogue.answer",
    "Citation": "documents.citations",
    "Document": "core.records",
    "Prices": "core.records",
    "Question": "core.records",
    "Reader": "dialogue.api",
    "Rectangle": "documents.rectangles",
    "Store": "search.store",
    "ask": "dialogue.api",
    "ask_async": "dialogue.api",
    "load_corpus": "data.corpus",
    "load_document": "documents",
    "load_engine": "engines",
    "load_profile": "dialogue.steps",
    "load_tokenizer": "documents.tokens",
    "rectangles_of": "documents.rectangles",
    "split": "documents",
}

__all__ = [
    "AgenticluError",
    "Answer",
    "Citation",
    "Document",
    "Prices",
    "Question",
    "Reader",
    "Rectangle",
    "Store",
    "__version__",
    "ask",
    "ask_async",
    "load_corpus",
    "load_document",
    "load_engine",
    "load_profile",
    "load_tokenizer",
    "rectangles_of",
    "split",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agenticlu' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"agenticlu.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
