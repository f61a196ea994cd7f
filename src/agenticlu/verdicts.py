"""Reads a one-word verdict out of what a model wrote, or says that there is none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

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
_THINKING = re.compile(r"<(/?)(?:think|thinking|reasoning)>", re.IGNORECASE)
_ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_FOREIGN = {
    "yes": "yep yeah yup ja oui sí si sim да так evet 是 是的 对 對 はい 네 예 نعم",
    "no": "nope nah nein non não нет ні nej nee hayır 否 不 不是 いいえ 아니요 아니오 لا",
    "maybe": "vielleicht peut-être quizás quizá forse talvez возможно 也许 可能 或许 たぶん 아마",
}
"""Everyday words of other languages; believed only as the whole reply or before a comma or stop,
for some mean another thing inside a sentence (*si*, *ja*)."""
_TRANSLATED = {word: choice for choice, words in _FOREIGN.items() for word in words.split()}


def strip_thinking(text: str) -> str:
    """Returns a reply without a reasoning model's thinking.

    Thinking that was never closed was cut off: nothing of the reply remains.

    >>> strip_thinking("<think>Is it no? Hm.</think> yes")
    'yes'
    """
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THINKING.finditer(text):
        if tag[1] and not thinking:
            # Some templates open the thinking in the prompt: the reply has its end alone.
            kept = []
        elif not tag[1] and not thinking:
            kept.append(text[start : tag.start()])
        thinking, start = not tag[1], tag.end()
    parts = kept if thinking else [*kept, text[start:]]
    return " ".join(part.strip() for part in parts if part.strip())


def parse_verdict(text: str, choices: Sequence[str] = ("yes", "maybe", "no")) -> str | None:
    """Returns the choice that the text settles on, or None.

    Whole words only: 'notebook' and 'know' hold no 'no'. Thinking, emphasis, quotes and tags are
    taken away, a list of the choices ('yes or no') says nothing, nor does a choice that is negated.
    Then, first found wins: a choice right after the last 'Answer:'; one after a change of mind
    ('no, wait, yes'); the text's first word; the only choice that occurs at all. Different choices
    and nothing else are no verdict.

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
