"""The guided tour: a document of the invented world, which the bundled model understands."""

from __future__ import annotations

from agenticlu.demo.world import World
from agenticlu.engines import ModelChoice

TOUR_NAME = "guided-tour.txt"
TOUR_QUESTIONS = (
    "Where does Jonas Sorrel live?",
    "Who is the teacher of the teacher of Jonas Sorrel?",
    "Who is the mayor of the town where the teacher of Leon Brand lives?",
)
"""One fact, two, and three."""
_SEED, _INDEX, _TOKENS = 7, 2, 1000


def write_tour() -> str:
    """Writes the document, the same each time."""
    count = ModelChoice().tokenizer().count
    return World(seed=_SEED).document("test", _INDEX, _TOKENS, count).text
