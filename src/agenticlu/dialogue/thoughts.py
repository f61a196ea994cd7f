"""Parts what a model thinks aloud from what it says: of a whole text, or while it comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_THOUGHT = re.compile(
    r"<(?P<slash>/?)(?:think|thinking|thought|reasoning|seed:think)>"
    r"|\[(?P<stroke>/?)THINK\]"
    r"|<\|channel\|>"
    r"(?:(?P<channel>\w{1,16})[^\n<]{0,64}(?:<\|constrain\|>\w{0,16})?<\|message\|>)?"
    r"|(?P<border><\|(?:start|end|return)\|>)",
    re.IGNORECASE,
)
"""Tags around what a model thinks aloud: XML-like ones, Mistral's, and the channels of the harmony
format, where only the channel *final* is the reply."""


@dataclass(frozen=True)
class SplitReply:
    """A sampled text, parted into what was thought and what was said."""

    reply: str
    """Unchanged where nothing was thought."""
    thinking: str = ""
    is_cut: bool = False
    """Whether it ends inside a thought, so that the reply never came."""
    opened: bool = False
    """Whether the thought began before the text: a tag closes what was never opened."""


def split_thinking(text: str, *, opened: bool = False) -> SplitReply:
    """Parts a reasoning model's thinking from its reply.

    Thinking that was never closed was cut off: nothing of the reply remains. A tag that closes
    what was never opened ends thinking, too: some chat templates write the opening tag as the end
    of the prompt.

    Args:
        text: As sampled.
        opened: Whether the prompt itself ends in an opening tag.

    >>> split_thinking("<think>Is it no? Hm.</think> yes")
    SplitReply(reply='yes', thinking='Is it no? Hm.', is_cut=False, opened=False)
    >>> split_thinking("It may be no", opened=True).is_cut
    True
    """
    said: list[str] = []
    thoughts: list[str] = []
    roles: list[str] = []
    """What stands between two messages of the harmony format, such as *assistant*."""
    parts = thoughts if opened else said
    start = 0
    for tag in _THOUGHT.finditer(text):
        if text.endswith("`", 0, tag.start()) and text.startswith("`", tag.end()):
            continue  # spoken of, as code
        parts.append(text[start : tag.start()])
        start = tag.end()
        channel = (tag["channel"] or "").lower()
        closes = bool(tag["slash"] or tag["stroke"])
        if (closes and parts is said) or channel == "final":
            opened = opened or closes
            thoughts += said
            said.clear()
        following = said if closes or channel == "final" else thoughts
        parts = roles if tag["border"] else following
    if start == 0 and not opened:
        return SplitReply(text)
    parts.append(text[start:])
    return SplitReply(
        reply=_join(said, " "),
        thinking=_join(thoughts, "\n"),
        is_cut=parts is thoughts,
        opened=opened,
    )


def _join(parts: Sequence[str], between: str) -> str:
    return between.join(part.strip() for part in parts if part.strip())


def strip_thinking(text: str) -> str:
    """Returns a reply without the thinking of a reasoning model; see `split_thinking`.

    >>> strip_thinking("<think>Is it no? Hm.</think> yes")
    'yes'
    >>> strip_thinking("[THINK]It may be"), strip_thinking("It may be no.</think>yes")
    ('', 'yes')
    """
    return split_thinking(text).reply


_NAMES = ("think", "thinking", "thought", "reasoning", "seed:think")
_LITERAL_TAGS = (
    *(f"<{slash}{name}>" for name in _NAMES for slash in ("", "/")),
    *("[think]", "[/think]", "<|channel|>", "<|start|>", "<|end|>", "<|return|>"),
)
_LONGEST_TAG = max(map(len, _LITERAL_TAGS))
_CHANNEL_HEAD = re.compile(
    r"\w{0,16}+[^\n<]{0,64}+(?:<[|a-z]{0,11}+>?+\w{0,16}+(?:<[|a-z]{0,9}+)?)?", re.IGNORECASE
)
"""What may stand between a channel's tag and the end of its head, as far as it has come."""


@dataclass(eq=False)
class SaidText:
    """The reply within a text that comes in parts, as far as it is certain.

    What was thought is left out, and so is white space at both ends, so that all parts together are
    the reply that `split_thinking` finds. Held back is what may turn out to be a tag. Where a tag
    closes a thought that was never opened, some of it was told already: then nothing more is told,
    and the whole reply has to take the place of the parts.

    >>> said = SaidText()
    >>> [said.feed(part) for part in ("<thi", "nk>Hm.</think", "> Ada ", "wrote it. ")]
    ['', '', 'Ada', ' wrote it.']
    """

    opened: bool = False
    """Whether the prompt itself ends in an opening tag."""
    doubts: Callable[[str], bool] | None = None
    """Whether a text may be the beginning of a thought without a tag. Such a text is held back
    until a tag or the end of the reply tells what it is."""
    told: str = ""
    """What was returned so far."""
    _pending: str = ""
    _before: str = ""
    """The character before the pending text."""
    _part: str = ""
    """Where the text goes: 'said', 'thought', or 'role' between two messages."""
    _begins: bool = True
    """Whether nothing of the present part was said yet."""
    _has_said: bool = False
    _blank: str = ""
    """White space that is said if anything follows it."""
    _doubtful: str = ""
    """Said, but not told, as long as there are doubts."""
    _is_wrong: bool = False

    def __post_init__(self) -> None:
        self._part = "thought" if self.opened else "said"

    def feed(self, text: str) -> str:
        """Takes the next part of the text; returns what of the reply is now certain."""
        self._pending += text
        said: list[str] = []
        at = 0
        for tag in _THOUGHT.finditer(self._pending):
            before = self._pending[tag.start() - 1] if tag.start() else self._before
            after = self._pending[tag.end() : tag.end() + 1]
            if before == "`" and (not after or after == "`"):
                if not after:
                    return self._tell(said, at, tag.start())
                continue  # spoken of, as code
            if self._may_grow(tag):
                return self._tell(said, at, tag.start())
            said.append(self._say(self._pending[at : tag.start()]))
            self._turn(tag, said)
            at = tag.end()
        return self._tell(said, at, self._find_end(at))

    def finish(self, reply: str) -> str:
        """Takes the whole reply; returns what of it was not told.

        Nothing, where something else was told before.
        """
        if not reply.startswith(self.told):
            return ""
        rest = reply[len(self.told) :]
        self.told = reply
        return rest

    def _may_grow(self, tag: re.Match[str]) -> bool:
        """Whether a channel's tag may be the beginning of a longer one."""
        if tag["channel"] is not None or not tag[0].lower().startswith("<|channel"):
            return False
        return _CHANNEL_HEAD.fullmatch(self._pending, tag.end()) is not None

    def _turn(self, tag: re.Match[str], said: list[str]) -> None:
        """Goes on to another part behind a tag, as `split_thinking` does."""
        channel = (tag["channel"] or "").lower()
        closes = bool(tag["slash"] or tag["stroke"])
        if (closes and self._part == "said") or channel == "final":
            self._is_wrong = bool(self.told)
            self._has_said = False
            said.clear()
            self._doubtful = ""
        if closes or channel == "final":
            self.doubts = None
        following = "said" if closes or channel == "final" else "thought"
        self._part = "role" if tag["border"] else following
        self._begins = True

    def _say(self, text: str) -> str:
        if self._part != "said":
            return ""
        if self._begins:
            text = text.lstrip()
            if not text:
                return ""
            self._blank = " " if self._has_said else ""
            self._begins, self._has_said = False, True
        text = self._blank + text
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        return kept

    def _find_end(self, start: int) -> int:
        """Returns where the pending text ends that cannot be part of a tag that is still coming."""
        for at in range(max(start, len(self._pending) - _LONGEST_TAG + 1), len(self._pending)):
            if self._pending[at] in "<[":
                begun = self._pending[at:].lower()
                if any(tag.startswith(begun) for tag in _LITERAL_TAGS):
                    return at
        return len(self._pending)

    def _tell(self, said: list[str], start: int, end: int) -> str:
        """Takes the certain text off the pending one; returns what of it is told."""
        said.append(self._say(self._pending[start:end]))
        if end:
            self._before = self._pending[end - 1]
        self._pending = self._pending[end:]
        text = self._doubtful + "".join(said)
        self._doubtful = ""
        if self._is_wrong:
            return ""
        if self.doubts is not None and not self.told and self.doubts(text):
            self._doubtful = text
            return ""
        self.told += text
        return text
