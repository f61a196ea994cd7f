"""The answer that a reply ends on, without the label, marks and citations around it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from agenticlu.core.golds import load_json
from agenticlu.dialogue.replies import parse_last_object

_WORDS = (
    r"answer|antwort|lösung|réponse|respuesta|resposta|risposta|ответ|відповідь|odpowiedź|odpověď"
    r"|odpoveď|antwoord|svar|vastaus|cevap|yanıt|απάντηση|răspuns|válasz|jawaban|đáp án|trả lời"
)
_OTHER_WORDS = (
    "答案|回答|答え|答|정답|답변|답|الإجابة|الاجابة|الجواب|جواب|پاسخ|उत्तर|উত্তর|คำตอบ|คําตอบ|תשובה"
)
LABEL = (
    rf"(?:(?<![^\W_])(?<!long )(?:{_WORDS})(?:\s+(?:is|ist|est|es|è|é|jest|er|är)\b)?"
    r"(?:\s(?:finale?|correct[ao]|corrett[ao]|corret[ao]|correcte))?"
    rf"|(?:{_OTHER_WORDS})\s?(?:是|为|為|は|은|는|คือ)?)[*_`\s]*[:：][*_`]*"
    r"|(?:答案|答え|정답|답)(?:是|为|為|は|은)"
)
"""Pattern of `Answer:` and its like in other languages."""
SAID = rf"\b(?:{_WORDS})\s+(?:\w+\s+)?(?:ist|est|es|è|é|jest|er|är)\b"
"""Pattern of `die Antwort ist` and its like, of which `the answer is` is none."""
_ANSWER_LABEL = re.compile(
    rf"{LABEL}"
    rf"|^[ \t#*_>]*(?:final\s)?(?:{_WORDS}|{_OTHER_WORDS})[ \t*_]*(?:$|(?:[–—=→]|-(?=\s)|[-=]>))",
    re.IGNORECASE | re.MULTILINE,
)
"""Also as a heading on a line of its own, or before a dash or an arrow."""
_SENTENCE = re.compile(rf"(?:\banswer\s+is\b|{SAID})\s+(?!not\b|nicht\b)(?=\S)", re.IGNORECASE)
_SHORT_LABEL = re.compile(r"\s*(?:A\s*[:：]|####)(?=\s)\s*")
_CLOSING_WORDS = re.compile(
    r"(?:\.\s)?I hope (?:it|this|that) (?:is correct|helps)[.!]?\s*$", re.IGNORECASE
)
_END_TOKEN = re.compile(
    r"(?:<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return|eot|user|END_OF_TURN_TOKEN)\|>"
    r"|<｜end▁of▁sentence｜>|<end_of_turn>|<turn\|>|<eos>|\[/INST\]|\[e~\[).*|</s>\s*$",
    re.DOTALL,
)
_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(?=\S)")
_INLINE_TAG = re.compile(r"</?(?:b|i|u|em|strong|mark|code|span|p|br)\s*/?>", re.IGNORECASE)
_OPENING_TAG = re.compile(
    r"<(?:(?:final_?|short_?)?answer|final|response)>|\[answer\]", re.IGNORECASE
)
_BOX = re.compile(r"\\f?boxed\s*\{")
_FENCE = re.compile(r"\s*```\w*\n(?P<inside>.*?)\n?```\s*", re.DOTALL)
_LAST_FENCE = re.compile(r"```(?:json)?\n(?P<inside>\{[^`]*\})\s*```$")
_KEYS = ("answer", "final_answer", "final answer", "short_answer", "response")
_LINK = re.compile(r"\[([^\[\]\n]{1,300})\]\([^()\s]{1,500}\)")

_NUMBERS = r"\d{1,3}(?:\s?[,;–-]\s?\d{1,3}){0,20}"
_SHELF = r"(?:citation|cite|ref|source|doc(?:ument)?|passage|para(?:graph)?|page|[Dd]oc(?:ument)?)"
_MARK = (
    r"(?:</?[Pp]ara(?:graph)?s?\s?-?\d{1,99}(?:\s?[,–-]\s?\d{1,99}){0,20}\s?>|【[^】\n]{0,60}】"
    r"|\[\d{1,3}†[^\]\n]{0,40}\]|\\cite[pt]?\{[^{}\n]{0,60}\}"
    rf"|\[\[{_NUMBERS}\]\](?:\([^()\s]{{0,300}}\))?|\[(?:{_SHELF}\s?:?\s?)?{_NUMBERS}†?\]"
    rf"|\((?:see\s|cf\.\s)?{_SHELF}\s?\[{_NUMBERS}\]\)"
    r"|\[\^\w{1,20}\]|<sup>[^<>\n]{0,20}</sup>)"
)
_MARKS = re.compile(
    rf"[ \t]?\((?:from|see|in|per|cf\.|according to)\s{_MARK}\)"
    rf"|[ \t]?{_MARK}(?:[ \t]?(?:[,;&–-]|and|to)?[ \t]?{_MARK})*"
)
_SOURCE = re.compile(
    r"[ \t]?[(\[](?:(?:see|cf\.?|sources?|citations?|ref(?:erence)?s?)\b(?:[^()\[\]\n]{0,120})"
    r"|(?:(?:as\s)?(?:stated|mentioned|said|found|given|described|noted)\s)?"
    r"(?:from|in|per|by|according\sto)\s(?:the\s)?(?:<?para(?:graph)?s?|passages?|pages?|pieces?"
    r"|sections?|doc(?:ument)?s?)\s?\d[^()\[\]\n]{0,60}|doc(?:ument)?\s?\d[^()\[\]\n]{0,60}"
    r"|(?:paragraphs?|paras?\.?|pages?|pp?\.|sections?|sec\.|[§¶]|lines?|chapters?|passages?|pieces?)"
    r"\s?#?\d[^()\[\]\n]{0,60})[)\]]$",
    re.IGNORECASE,
)
_NOTE = re.compile(r"(?:(?<=[^\W\d_]{3})|(?<=[\s.”\"'’)*]))[⁰¹²³⁴-⁹]{1,3}$|[†‡]+$")
"""A raised figure after a word is a note's; after a figure or a unit it is a power."""
_END_CHARACTERS = 200
MOST_WRAPPINGS = 16
"""Quotes, emphasis and full stops taken off in turn; models loop on them."""
_BLANKS = " \t\r\n\f\v\u00a0\u2028\u2029\u200b\u2060\ufeff"
_QUOTES = "\"'“”‘’`«»„「」『』"


def parse_final_answer(text: str) -> str:
    r"""Returns the answer that the text ends on.

    What follows the *last* `Answer:` label, its first line that is not blank; what stands in
    `\boxed{}` or `<answer>` there. Emphasis, quotes, a closing full stop and citations (`<para 3>`,
    `[3]`, `(page 3)`, the number of a note) are no part of it. Without a label the whole text,
    stripped alike.

    >>> parse_final_answer("Mara bakes. Answer: bread? No. **Answer:** 'a blue kite.'")
    'a blue kite'
    >>> parse_final_answer("Nine.")
    'Nine'
    >>> parse_final_answer("Answer: Ada Larkin <para 3>"), parse_final_answer(r"It is \boxed{-3}.")
    ('Ada Larkin', '-3')
    """
    text = _tagged(_END_TOKEN.sub("", text))
    if (found := _from_object(text)) is not None:
        return _bare(found)
    end, is_labelled = len(text), False
    for label in _labels(text):
        is_labelled = True
        rest = text[label.end() : end]
        if said := _boxed(rest) or _first_line(rest):
            opened = text[: label.start()].rstrip("# ")
            emphasis = opened.endswith("*") and not opened.endswith("**")
            inner = _from_object(said)
            return _bare(_said(said) if inner is None else inner, in_emphasis=emphasis)
        end = label.start()
    if is_labelled:
        return ""
    if boxed := _boxed(text):
        return _bare(boxed)
    lines = text.strip().splitlines()
    if lines and _SENTENCE.search(lines[-1]):
        return _bare(_said(lines[-1]))
    if lines and (short := _SHORT_LABEL.match(lines[-1])):
        return _bare(lines[-1][short.end() :])
    return _bare(text)


def _said(line: str) -> str:
    """Returns what follows *the answer is*; without it, the whole line."""
    line = _CLOSING_WORDS.sub("", line)
    said = list(_SENTENCE.finditer(line))
    return line[said[-1].end() :] if said else line


def after_label(text: str) -> str | None:
    """Returns everything after the last `Answer:` label; None without one."""
    last = next(_labels(text), None)
    return text[last.end() :] if last else None


def _labels(text: str) -> Iterator[re.Match[str]]:
    """Yields the labels of an answer, the last one first."""
    yield from reversed(list(_ANSWER_LABEL.finditer(text)))


def _first_line(text: str) -> str:
    """Returns the first line that is not blank; of a list, all its items."""
    lines = [line for line in text.splitlines() if line.strip(" \t*_`#>")]
    items: list[str] = []
    for line in lines:
        if not (item := _ITEM.match(line)):
            break
        items.append(line[item.end() :].strip())
    return ", ".join(items) or next(iter(lines), "")


def _tagged(text: str) -> str:
    """Returns what the last `<answer>` holds, or a text in a code fence; else the whole text."""
    opened = list(_OPENING_TAG.finditer(text))
    if opened:
        rest = text[opened[-1].end() :]
        return re.split(r"</|\[/", rest, maxsplit=1)[0]
    fenced = _FENCE.fullmatch(text)
    return fenced["inside"] if fenced else text


def _from_object(text: str) -> str | None:
    """Returns the answer of a reply that is a JSON object with one."""
    plain = text.strip()
    if fenced := _LAST_FENCE.search(plain):
        plain = fenced["inside"].strip()
    if not (plain.startswith("{") and plain.endswith("}")):
        return None
    whole = load_json(plain) or parse_last_object(plain) or {}
    found = {str(key).casefold(): value for key, value in whole.items()}
    values = (found[key] for key in _KEYS if key in found)
    value = next(values, None)
    if isinstance(value, dict):
        value = next((value[key] for key in ("text", "value", "answer") if key in value), None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, str | int | float) else None


def _boxed(text: str) -> str | None:
    r"""Returns what the last `\boxed{}` holds; None without one, or where it is cut off."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            inside = text[start:at]
            worded = re.fullmatch(r"\s*\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}\s*", inside)
            return worded[1] if worded else inside
    return None


def _bare(text: str, *, in_emphasis: bool = False) -> str:
    """Strips white space, emphasis, quotes, citations and one full stop at the end.

    Args:
        text: An answer.
        in_emphasis: Whether a mark of emphasis was opened before it.
    """
    text = without_marks(html.unescape(_INLINE_TAG.sub("", text)))
    text = _LINK.sub(r"\1", text)
    for _ in range(MOST_WRAPPINGS):
        before = text
        text = _without_emphasis(text.strip(_BLANKS), in_emphasis).strip(_BLANKS)
        text = _without_note(text) or text
        if text.endswith(".") and not text.endswith("..") and not _ends_in_initial(text):
            text = text[:-1]
        text = text.removesuffix("。")
        if text and text[0] in _QUOTES and text[-1] in _QUOTES and len(text) > 1:
            text = text[1:-1]
        elif text and text[-1] in '"“”«»„`' and text.count(text[-1]) == 1:
            text = text[:-1]
        if text == before:
            break
    return text.strip()


def without_marks(text: str) -> str:
    """Returns a text without the marks of citations; unchanged where it is nothing else.

    >>> without_marks("Ada [1] and Bo<para 3>"), without_marks("[3]")
    ('Ada and Bo', '[3]')
    """
    without = _MARKS.sub("", text)
    if without == text or not without.strip(" \t\n.,;*_"):
        return text
    return without.rstrip(" \t—–;,:")


def _without_note(text: str) -> str:
    """Returns a text without a source in brackets or the number of a note at its end."""
    start, end = text[:-_END_CHARACTERS], text[-_END_CHARACTERS:]
    return start + _NOTE.sub("", _SOURCE.sub("", end))


def _without_emphasis(text: str, in_emphasis: bool) -> str:
    """Strips asterisks and underscores, but for the one of A*."""
    is_starred = re.search(r"(?<![\w*])[A-Za-z]\*$", text[-4:]) is not None
    if is_starred and not text.startswith("*") and not in_emphasis:
        return text
    return text.strip("*_")


def _ends_in_initial(text: str) -> bool:
    """Whether the last full stop belongs to an abbreviation such as U.S. or p.m."""
    return re.search(r"\b\w\.\w\.$", text[-8:]) is not None
