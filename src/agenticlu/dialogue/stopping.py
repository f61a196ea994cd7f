"""When to stop: whether a round's answer is right, judged by what the dialogue itself shows.

A model's self-check says yes too often, and a second round spoils answers as well as it mends them.
A stop rule weighs the self-check against facts that cost nothing: which paragraphs were pointed
to, whether what was said stands in them, whether the answer changed. It is a logistic model of a
few numbers, fitted on a recorded run (`agenticlu generate stop-rule`). That the state of the
evidence tells more than the model's own word is the finding of STARC, a study of AgenticLU's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agenticlu.core.errors import ConfigError
from agenticlu.core.records import Record, Turn
from agenticlu.core.words import holds
from agenticlu.dialogue.replies import is_refusal, parse_verdict
from agenticlu.dialogue.run import ShownDocument
from agenticlu.dialogue.steps import Dialogue
from agenticlu.documents.citations import statements
from agenticlu.documents.quotes import find_quote, fold
from agenticlu.evaluation.scoring.canonical import canonical_tokens
from agenticlu.evaluation.scoring.final import LABEL, parse_final_answer

FACTS = (
    "says_yes",
    "says_no",
    "points",
    "new_pieces",
    "stated",
    "held",
    "changed",
    "repeated",
    "refused",
)
"""What is seen of a round, each in [0, 1]."""
HINT = "stop_rule"
"""Key of the rule in a model folder's `agenticlu.json`."""


class StopRule(Record):
    """A logistic model of whether a round's answer is right, and the least probability to stop."""

    weights: dict[str, float]
    """By fact; what is not named weighs nothing."""
    bias: float
    threshold: float = Field(ge=0, le=1)
    """A round that is right with at least this probability is the last."""
    fitted_on: dict[str, Any] = Field(default_factory=dict)
    """Where it comes from: counts and measures, for people."""

    def probability(self, facts: Mapping[str, float]) -> float:
        """Returns the probability that a round's answer is right.

        Args:
            facts: By name, as in `FACTS`.
        """
        z = self.bias + math.fsum(
            weight * facts.get(name, 0.0) for name, weight in self.weights.items()
        )
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))

    def ends(self, facts: Mapping[str, float]) -> bool:
        """Whether a round of which these facts are seen is the last."""
        return self.probability(facts) >= self.threshold


@dataclass(frozen=True)
class Round:
    """A finished round: its turns, and the pieces that it points to."""

    turns: Sequence[Turn]
    pieces: Sequence[int]

    def reply(self, kind: str) -> str:
        """Returns the reply of a turn; '' where there is none."""
        return next((turn.reply for turn in self.turns if turn.kind == kind), "")


def observe(shown: ShownDocument, rounds: Sequence[Round]) -> dict[str, float]:
    """Returns what is seen of the last of some rounds.

    Args:
        shown: The document.
        rounds: All rounds of the conversation so far, at least one.
    """
    *earlier, last = rounds
    verdict = parse_verdict(last.reply("check"), ("yes", "no"))
    answer = _words(last)
    text = shown.document.text
    pieces = [shown.pieces[index] for index in last.pieces]
    passages = [text[piece.start : piece.end] for piece in pieces]
    said = statements([last.reply("sub_answer"), last.reply("answer")], LABEL)
    known = {piece for one in earlier for piece in one.pieces}
    new = [piece for piece in last.pieces if piece not in known]
    before = [_words(one) for one in earlier]
    return {
        "says_yes": float(verdict == "yes"),
        "says_no": float(verdict == "no"),
        "points": float(bool(last.pieces)),
        "new_pieces": len(new) / len(last.pieces) if last.pieces else 0.0,
        "stated": float(_is_stated(said, passages)),
        "held": float(bool(answer) and any(holds(canonical_tokens(t), answer) for t in passages)),
        "changed": float(bool(before) and answer != before[-1]),
        "repeated": float(answer in before),
        "refused": float(not answer or is_refusal(last.reply("answer"))),
    }


def decide(dialogue: Dialogue, shown: ShownDocument, rule: StopRule) -> Dialogue:
    """Returns a dialogue after whose last round the rule has decided whether it is over.

    Args:
        dialogue: Its last turn is a self-check.
        shown: The document.
        rule: Decides, in place of the self-check.
    """
    size = len(dialogue.steps)
    turns = dialogue.turns[len(dialogue.opening) :]
    rounds = []
    for start in range(0, len(turns), size):
        one = turns[start : start + size]
        pointed = next((turn.reply for turn in one if turn.kind == "point"), "")
        rounds.append(Round(one, shown.named(pointed).valid))
    return dialogue.decided(rule.ends(observe(shown, rounds)))


def read_rule(path: str | Path) -> StopRule:
    """Reads a rule from a JSON file that `agenticlu generate stop-rule` wrote.

    Raises:
        ConfigError: It cannot be read, or holds no rule.
    """
    try:
        return StopRule.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"Cannot read the stop rule {str(path)!r}: {error.strerror}.",
            hint="agenticlu generate stop-rule RUN --out FILE writes one.",
        ) from error
    except ValidationError as error:
        raise ConfigError(
            f"{str(path)!r} holds no stop rule: {error.errors()[0]['msg']}.",
            hint="agenticlu generate stop-rule RUN --out FILE writes one.",
        ) from error


def choose_rule(given: str | None, model: Path | None) -> StopRule | None:
    """Returns the rule of a file that was named, else a model's own, if it has one.

    Raises:
        ConfigError: See `read_rule` and `find_rule`.
    """
    return find_rule(model) if given is None else read_rule(given)


def find_rule(model: Path | None) -> StopRule | None:
    """Returns the rule in a model folder's `agenticlu.json`; None where it names none.

    Raises:
        ConfigError: What stands there is no rule.
    """
    path = None if model is None else model / "agenticlu.json"
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(HINT)
        return None if found is None else StopRule.model_validate(found)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{HINT!r} in {str(path)!r} is no stop rule: {error}") from error


def _words(one: Round) -> tuple[str, ...]:
    return tuple(canonical_tokens(parse_final_answer(one.reply("answer"))))


def _is_stated(said: Sequence[str], passages: Sequence[str]) -> bool:
    """Whether something that was said stands in a passage word for word."""
    for text in passages:
        folded = fold(text)
        if any(find_quote(statement, folded, text) is not None for statement in said):
            return True
    return False
