"""The guided tour: a document of the invented world, which the bundled model understands."""

from __future__ import annotations

from agenticlu.demo.world import World
from agenticlu.engines import ModelChoice

TOUR_NAME = "guided-tour.txt"
TOUR_QUESTIONS = (
    "What animal does Kaspar Oakes keep?",
    "Where does Greta Ingram live?",
    "Who is the friend of Kaspar Oakes?",
)
"""A fact each, from different ends of the document; the bundled model finds all of them in turn."""
_SEED, _INDEX, _TOKENS = 7, 18, 400


def write_tour() -> str:
    """Writes the document, the same each time."""
    count = ModelChoice().tokenizer().count
    return World(seed=_SEED).document("test", _INDEX, _TOKENS, count).text
