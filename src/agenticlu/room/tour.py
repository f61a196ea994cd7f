"""The guided tour: a document of the invented world, which the bundled model understands."""

from __future__ import annotations

from agenticlu.demo.world import World
from agenticlu.engines import ModelChoice

TOUR_NAME = "guided-tour.txt"
TOUR_QUESTIONS = (
    "What animal does Kaspar Oakes keep?",
    "Where does the friend of Greta Ingram live?",
    "What is the town where the friend of Kaspar Oakes lives known for?",
)
"""One fact, two, and three; the bundled model finds all of them, the latter two as follow-ups."""
_SEED, _INDEX, _TOKENS = 7, 18, 400


def write_tour() -> str:
    """Writes the document, the same each time."""
    count = ModelChoice().tokenizer().count
    return World(seed=_SEED).document("test", _INDEX, _TOKENS, count).text
