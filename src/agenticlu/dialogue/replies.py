"""Parses replies: reads verdicts and judgements, recognises refusals.

`parse_verdict` reads the one-word replies of the dialogue and of grounding, `parse_judgement` those
of a judge, which are JSON where the judge follows its instructions. A judge's prose is read more
strictly: it talks about answers, so *no difference* or *its answer is yes* are not verdicts there.

Every pattern here takes time linear in the reply: models loop on blanks and repeat themselves up to
the token limit, and a stored reply is read again in every later run.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from agenticlu.dialogue.thoughts import strip_thinking

_LABEL = re.compile(
    r"(?:\b(?:final\s+)?(?:answer|verdict)\b\s*(?:is\b)?|\\boxed\s*\{)\s*(?:[:：=–—]|-(?=\s))?\s*"
)
_CORRECTION = re.compile(
    r"(?:\bwait\b|\bactually\b|\bon second thoughts?\b|\bi mean\b|\bi meant\b|\bcorrection\b"
    r"|\bsorry\b|\bscratch that\b)[\s,.:;!–—-]*"
)
_IDIOM = re.compile(r"\bno (?:doubt|question|wonder|problem|matter|longer|more|less|fewer)\b")
_UNSURE = re.compile(
    r"(?:(?:i am|im|i'm|it is|its|it's)\s+)?(?:not (?:sure|certain|clear)|unsure|uncertain|unclear"
    r"|perhaps|possibly|yes and no|no idea|i do not know|i dont know|hard to (?:say|tell)"
    r"|(?:i )?(?:cannot|cant|can not) (?:say|tell))\b"
)
_ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_FOREIGN = {
    "yes": "yep yeah yup ja oui sí si sim да так evet 是 是的 对 對 はい 네 예 نعم",
    "no": "nope nah nein non não нет ні nej nee hayır 否 不 不是 いいえ 아니요 아니오 لا",
    "maybe": "vielleicht peut-être quizás quizá forse talvez возможно 也许 可能 或许 たぶん 아마",
}
"""Everyday words of other languages; believed only as the whole reply or before a comma or stop,
for some mean another thing inside a sentence (*si*, *ja*)."""
_TRANSLATED = {word: choice for choice, words in _FOREIGN.items() for word in words.split()}


def parse_verdict(text: str, choices: Sequence[str] = ("yes", "maybe", "no")) -> str | None:
    """Returns the choice that the text settles on, or None.

    Whole words only: 'notebook' and 'know' contain no 'no'. Thinking, emphasis, quotes and tags are
    taken away, a list of the choices ('yes or no') says nothing, nor does a choice that is negated.
    Then, first found wins: a choice right after the last 'Answer:'; one after a change of mind
    ('no, wait, yes'); the text's first word; the only choice that occurs at all. Different choices
    and nothing else give no verdict.

    >>> parse_verdict("**Answer:** no")
    'no'
    >>> parse_verdict("The notebook is known to all.") is None
    True
    """
    by_key = {choice.lower(): choice for choice in choices}
    plain = _plain(text)
    word = _word_pattern(by_key)
    plain = _without_choice_lists(plain, by_key, word)
    found = _settled(plain, word)
    if found is None and "maybe" in by_key and _UNSURE.match(plain):
        found = "maybe"
    if found is None:
        found = _translated(plain, by_key)
    return None if found is None else by_key[found]


def _plain(text: str) -> str:
    text = _ZERO_WIDTH.sub("", unicodedata.normalize("NFKC", strip_thinking(text)))
    text = re.sub(r"</?[a-zA-Z][^<>]*>", " ", text)
    text = re.sub(r"[*_`\"“”„«»]+|(?<!\w)['‘’]|['‘’](?!\w)", "", text).replace("’", "'")
    return _IDIOM.sub("…", re.sub(r"^[^\w\\]+", "", text.strip()).lower())


def _word_pattern(choices: dict[str, str]) -> re.Pattern[str]:
    alternatives = "|".join(sorted(map(re.escape, choices), key=len, reverse=True))
    before = r"(?<!\w)(?<!\w-)(?<!\bnot )(?<!\bnot say )(?<!n't )(?<!never )"
    return re.compile(rf"{before}(?:{alternatives})(?!\w)(?!-\w)")


def _without_choice_lists(plain: str, choices: dict[str, str], word: re.Pattern[str]) -> str:
    """Takes out 'yes, maybe or no' and 'yes/no': a model repeating what it may say."""
    joint = r"\s*(?:[,/|]|\bor\b|, or\b)\s*"
    listed = re.compile(rf"{word.pattern}(?:{joint}{word.pattern})+")

    def keep(match: re.Match[str]) -> str:
        named = word.findall(match.group())
        said_by_slash = "/" in match.group() or "|" in match.group() or " or " in match.group()
        return " " if said_by_slash and len(set(named)) > 1 else match.group()

    return re.sub(r"^[\s?.,:;]+", "", listed.sub(keep, plain))


def _settled(plain: str, word: re.Pattern[str]) -> str | None:
    labels = list(_LABEL.finditer(plain))
    if labels and (found := word.match(plain, labels[-1].end())):
        return found.group()
    every = [match.group() for match in word.finditer(plain)]
    if len(set(every)) > 1:
        if re.match(r"yes and no\b", plain):
            return None
        corrections = list(_CORRECTION.finditer(plain))
        if corrections and (after := word.search(plain, corrections[-1].end())):
            return after.group()
        others = re.sub(r"[\W_]+|\band\b", "", word.sub("", plain))
        if not others and every[0] != "maybe":
            return None
    if found := word.match(plain):
        return found.group()
    return every[0] if len(set(every)) == 1 else None


def _translated(plain: str, choices: dict[str, str]) -> str | None:
    first = re.match(r"[\w-]+(?=\s*(?:[,.;:!，。！、]|$))", plain)
    choice = _TRANSLATED.get(first.group()) if first else None
    if choice is None and re.fullmatch(r"true|false", plain.strip(" .!")):
        choice = "yes" if plain.startswith("true") else "no"
    if choice is None and (value := re.fullmatch(r"\w+\s*:\s*(true|false)\s*\}?", plain)):
        choice = "yes" if value[1] == "true" else "no"
    return choice if choice in choices else None


_JUDGED = r"(?:verdict|judge?ment)"
_BEGUN = re.compile(r"\{\s*(?P<quote>[\"']?)\w+(?P=quote)\s*:")
"""An object begins; braces of prose are followed by something else."""
_TOKEN = re.compile(
    r"\s+|(?P<mark>[{}\[\]:,])|(?P<double>\"(?:\\.|[^\"\\])*\")|(?P<single>'(?:\\.|[^'\\])*')"
    r"|(?P<number>-?\d+(?:\.\d+)?(?!\w))|(?P<word>[^\W\d]\w*)",
    re.DOTALL,
)
MOST_OBJECTS = 64
"""Objects tried from a reply's end: each try may read to the end, so their number is bounded."""
_DECODER = json.JSONDecoder(
    strict=False, object_pairs_hook=lambda pairs: {key.strip().lower(): v for key, v in pairs}
)
_LITERALS = {"true": "true", "false": "false", "none": "null", "null": "null"}
_RIGHT = frozenset({"yes", "y", "true", "correct", "right", "1"})
_WRONG = frozenset({"no", "n", "false", "incorrect", "wrong", "0"})
_OWN_LINE = re.compile(
    rf"(?:^[^\w\n]*(?:final\s+|my\s+)?(?:answer|{_JUDGED})|\b{_JUDGED})\b(?:\s*+is\b)?\s*+[:=–—-]?"
    r"\s*+(yes|no)\b(?!\s+\w)",
    re.MULTILINE,
)
_FIRST = re.compile(r"yes\b|no\b(?!\s*\w)")
"""A *no* that goes on without a stop is mostly another one: 'No difference: right.'"""


def parse_judgement(text: str, finish_reason: str = "unknown") -> float | None:
    """Returns a judge's verdict as 1.0 or 0.0, or None when the reply settles nothing.

    Thinking is taken away, then the last whole object with a verdict is read; single quotes, bare
    keys and trailing commas are forgiven. A reply that begins an object without closing it was cut
    off, or repeats the template: it is read only where it ends in a complete verdict.
    Prose must begin with the verdict or label it, and must have ended by itself.

    Args:
        text: What the judge wrote.
        finish_reason: Why it ended; 'length' says that it was cut off.

    >>> parse_judgement('{"explanation": "It is not known.", "verdict": "yes"}')
    1.0
    >>> parse_judgement('{"explanation": "It is a yes/no question.", "verdict": ') is None
    True
    """
    if finish_reason == "refused":
        return None
    said = _ZERO_WIDTH.sub("", strip_thinking(text))
    begun = _BEGUN.search(said)
    if begun is None:  # perhaps in wide characters, or with curly quotes
        plain = re.sub("[“”„]", '"', unicodedata.normalize("NFKC", said))
        if begun := _BEGUN.search(plain):
            said = plain
    cut = finish_reason == "length"
    if begun is None:
        return None if cut else _read_prose(said)
    objects, broken = _whole_objects(said)
    if broken:
        return _verdict_at_the_end(said, begun["quote"])
    verdicts = [_value_of(one) for one in objects if _holds_verdict(one)]
    # A model that was cut off had gone on to questions of its own: then none is surely ours.
    if not verdicts or (cut and len(set(verdicts)) > 1):
        return None
    return verdicts[-1]


def _whole_objects(text: str) -> tuple[list[dict[str, Any]], bool]:
    """Returns the objects in a text, and whether one is broken or was never closed."""
    objects: list[dict[str, Any]] = []
    at = 0
    while begun := _BEGUN.search(text, at):
        read = _read_object(text, begun.start())
        if read is None:
            return objects, True
        found, at = read
        objects.append(found)
    return objects, False


def parse_last_object(text: str) -> dict[str, Any] | None:
    """Returns the last whole JSON object of a reply, its keys in lower case; None without one.

    Thinking is stripped; single quotes, bare keys and trailing commas are forgiven.

    >>> parse_last_object("Reasons {a}. {'fluency': 1, 'correctness': 3,}")
    {'fluency': 1, 'correctness': 3}
    """
    said = strip_thinking(text)
    for begun in list(_BEGUN.finditer(said))[: -MOST_OBJECTS - 1 : -1]:
        if read := _read_object(said, begun.start()):
            return read[0]
    return None


def _read_object(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """Returns the object that begins here and where it ends, or None."""
    try:
        found, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        repaired = _repair(text, start)
        if repaired is None:
            return None
        try:
            found, end = _DECODER.decode(repaired[0]), repaired[1]
        except (ValueError, RecursionError):
            return None
    assert isinstance(found, dict)
    return found, end


def _repair(text: str, start: int) -> tuple[str, int] | None:
    """Returns an object as JSON, without single quotes, bare words and trailing commas."""
    parts: list[str] = []
    depth, at = 0, start
    while match := _TOKEN.match(text, at):
        at = match.end()
        if match["single"]:
            inner = match["single"][1:-1].replace("\\'", "'")
            parts.append('"' + re.sub(r'(?<!\\)"', r"\"", inner) + '"')
        elif match["word"]:
            parts.append(_LITERALS.get(match["word"].lower(), json.dumps(match["word"])))
        elif match["mark"]:
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match["mark"], 0)
            if match["mark"] in "}]" and parts[-1] == ",":
                parts.pop()
            parts.append(match["mark"])
            if depth == 0:
                return "".join(parts), at
        elif match.group().strip():
            parts.append(match.group())
    return None


def _holds_verdict(found: dict[str, Any]) -> bool:
    return any(re.fullmatch(_JUDGED, key) for key in found) or any(
        isinstance(value, dict) and _holds_verdict(value) for value in found.values()
    )


def _value_of(found: dict[str, Any]) -> float | None:
    for key, value in found.items():
        if re.fullmatch(_JUDGED, key):
            return _read_value(value)
    inner = [value for value in found.values() if isinstance(value, dict) and _holds_verdict(value)]
    return _value_of(inner[0]) if len(inner) == 1 else None


def _read_value(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value) if value in (0, 1) else None
    return _read_prose(value) if isinstance(value, str) else None


def _verdict_at_the_end(text: str, quote: str) -> float | None:
    """Reads a complete verdict at the end of an object that is not whole.

    Args:
        text: The reply.
        quote: What the object quotes with: a verdict that it merely tells of uses another.
    """
    closed = text.count("{") <= text.count("}")
    if not (closed or quote):
        return None  # without a quote, nothing says that the word is whole
    end = r"\s*+,?\s*+\}++[\s`]*+$" if closed else r"[\s,`]*+$"
    verdict = rf"(?<!\\){quote}{_JUDGED}{quote}\s*+:\s*+{quote}(yes|no)\.?{quote}"
    found = re.search(verdict + end, text, re.IGNORECASE)
    return None if found is None else float(found[1].lower() == "yes")


def _read_prose(text: str) -> float | None:
    """Reads a verdict that a text begins with, labels, or consists of."""
    choices = {"yes": "yes", "no": "no"}
    plain = _without_choice_lists(_plain(text), choices, _word_pattern(choices))
    whole = plain.strip(" \t\n.!,;:")
    if whole in _RIGHT or whole in _WRONG:
        return float(whole in _RIGHT)
    labelled = _OWN_LINE.findall(plain)
    if labelled:
        return float(labelled[-1] == "yes")
    words = re.findall(r"\w+", plain)
    if len(set(words)) > 1 and set(words) <= {"yes", "no", "and"}:
        return None
    corrections = list(_CORRECTION.finditer(plain))
    if corrections and (after := _FIRST.match(plain, corrections[-1].end())):
        return float(after.group() == "yes")
    if first := _FIRST.match(plain):
        return float(first.group() == "yes")
    translated = _translated(plain, choices)
    return None if translated is None else float(translated == "yes")


# --- Refusals ---

_ANSWER_LABEL = re.compile(r"^(?:(?:final|short|sub-?)?\s*answer)\s*(?:is\s*)?[:：—-]\s*")
_APOLOGY = re.compile(
    r"^(?:(?:oh|hi|hello|well|unfortunately|regrettably|sadly|i(?:'m| am) afraid(?: that)?|but"
    r"|(?:i(?:'m| am) |we(?:'re| are) |my )?(?:very |so |truly |deeply |really )?sorry"
    r"|i (?:do |must |sincerely )?apologi[sz]e(?: for (?:any|the) \w+)?|(?:my )?apologies|no"
    r"|thank you for (?:asking|your question)"
    r"|as (?:an? )?(?:ai|assistant|(?:large )?language model)(?: (?:language )?model| assistant)?"
    r")\b[\s,.;:!–—-]*)+"
)
_UNABLE = (
    r"(?:can ?not|can't|could ?not|couldn't|won't|will not|would not|am not able to|'m not able to"
    r"|are not able to|am unable to|'m unable to|are unable to|must decline to|have to decline to"
    r"|am not (?:allowed|permitted|comfortable|going) to|'m not (?:allowed|permitted|going) to"
    r"|am not comfortable|'m not comfortable|don't feel comfortable|do not feel comfortable)"
)
_TASK = (
    r"(?:help(?! but)|assist|answer(?:ing)?|respond|reply|comply|provid(?:e|ing)|discuss(?:ing)?"
    r"|fulfil+|do (?:that|this|so)|continue|shar(?:e|ing)|engage|generate|creat(?:e|ing)|process"
    r"|complete|participate|proceed|give (?:you|advice|that|this))"
)
_REFUSAL = re.compile(
    rf"^(?:i|we)\s*{_UNABLE}\s*(?:to |with )?(?:\w+ly )?{_TASK}\b"
    rf"|^(?:i|we)\s*{_UNABLE}\s*[.!]?$"
    r"|^(?:i|we) (?:must |have to )?(?:respectfully |politely )?(?:decline|refuse)\b"
    r"|^(?:this|that|your|the) (?:request|question|content|topic) (?:is|goes|would|violates|may)\b"
    r".{0,40}\b(?:inappropriate|against my|my (?:guidelines|policy|policies)|violat|harmful)"
    r"|^it (?:is|would be) (?:inappropriate|unethical|against my)\b"
)
_SELF = re.compile(r"^(?:as|i(?:'m| am)(?: just| only)?) an? (?:ai|(?:large )?language model)\b")
_SORRY_ALONE = re.compile(r"^(?:i(?:'m| am) (?:very |so )?sorry|my apologies)[\s,.!]*$")
_EVIDENCE = re.compile(
    r"\b(?:documents?|passages?|paragraphs?|texts?|context|excerpts?|sources?|informations?"
    r"|evidence|details?|stated|mentioned|given|provided|above|based on|from (?:this|these|what))\b"
)


def is_refusal(reply: str) -> bool:
    """Whether a reply declines the task.

    That the text does not tell is an answer, right or wrong, not a refusal: a reply that speaks of
    the evidence is never one.

    >>> is_refusal("Answer: I’m sorry, but I can’t help with that.")
    True
    >>> is_refusal("Sorry is the name of the horse."), is_refusal("The text does not say.")
    (False, False)
    """
    text = unicodedata.normalize("NFKC", reply).replace("’", "'").replace("‘", "'").lower()
    text = re.sub(r"^[^\w']+", "", text.replace("*", "").replace("_", " "))
    plain = " ".join(_ANSWER_LABEL.sub("", text).split())
    if _SORRY_ALONE.match(plain):
        return True
    opening = _APOLOGY.match(plain)
    rest = plain[opening.end() :] if opening else plain
    first = re.split(r"(?<=[.!?])\s", rest, maxsplit=1)[0]
    if _EVIDENCE.search(first):
        return False
    return bool(_REFUSAL.match(first) or (_SELF.match(plain) and not rest))
