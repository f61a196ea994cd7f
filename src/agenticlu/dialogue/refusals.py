"""Tells a reply that declines from one that answers, or that says the text holds no answer."""

from __future__ import annotations

import re
import unicodedata

_LABEL = re.compile(r"^(?:(?:final|short|sub-?)?\s*answer)\s*(?:is\s*)?[:：—-]\s*")
_OPENING = re.compile(
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
    plain = " ".join(_LABEL.sub("", text).split())
    if _SORRY_ALONE.match(plain):
        return True
    opening = _OPENING.match(plain)
    rest = plain[opening.end() :] if opening else plain
    first = re.split(r"(?<=[.!?])\s", rest, maxsplit=1)[0]
    if _EVIDENCE.search(first):
        return False
    return bool(_REFUSAL.match(first) or (_SELF.match(plain) and not rest))
