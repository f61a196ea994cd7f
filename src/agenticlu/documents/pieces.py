"""Pieces of a document: cut at sentence ends, shown between markers, and named by a model.

Only the *marked view*, which a model is shown, differs from the document's text: there, words that
look like our markers or like a chat template's control tokens are broken by a space, so that a
document can neither forge a paragraph nor end its own turn.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agenticlu.core.records import Document, Part, Piece
from agenticlu.documents.sentences import PHRASE_END, SENTENCE_END
from agenticlu.documents.tokens import Tokenizer

DEFAULT_PIECE_TOKENS = 512
LAST_TOKENS = 16
"""Tokens at the end of a window, at least, in which a piece may end early."""
NO_MARKS = "No paragraph helps."
"""Stands for an empty list of marks."""

_LINE_END = re.compile(r"\n")
_STACKING = frozenset("\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u17d2\u1039\u1a60\u200d")
"""What makes one character of those before and behind it: in India, Khmer, Burmese, in emoji."""


def split(
    document: Document, tokenizer: Tokenizer, piece_tokens: int = DEFAULT_PIECE_TOKENS
) -> tuple[Piece, ...]:
    """Cuts a document into pieces of at most `piece_tokens` tokens; joined, they give it back.

    Tokens are counted when the whole document is tokenised at once, each where it starts. A piece
    ends between two tokens and, where the last quarter of the window (its last 16 tokens, if those
    are more, so that pieces of a sentence or two hold whole ones) has one, at the end of a
    sentence, else of a line, else (in scripts without spaces) of a phrase. No character is split,
    even one that is made of more tokens than fit: such a character is a piece of its own. Each part
    of a reading of several sources is cut as a document of its own, so no piece crosses their
    borders.
    """
    if piece_tokens < 1:
        raise ValueError(f"piece_tokens must be at least 1, got {piece_tokens}")
    return tuple(
        Piece(
            index=index,
            start=start,
            end=end,
            num_tokens=num_tokens,
            page=document.page_of(start),
        )
        for index, (start, end, num_tokens) in enumerate(
            window
            for section in document.sections
            for window in _windows(document.text, section, tokenizer, piece_tokens)
        )
    )


def _windows(
    whole: str, section: tuple[int, int], tokenizer: Tokenizer, piece_tokens: int
) -> Iterator[tuple[int, int, int]]:
    """Yields (start, end, tokens) of each piece of a section of a text."""
    offset = section[0]
    text = whole[slice(*section)]
    if not text:
        return
    starts, clean = _cuts(text, tokenizer.spans(text))
    ends = tuple(
        array("I", (match.end() for match in kind.finditer(text)))
        for kind in (SENTENCE_END, _LINE_END, PHRASE_END)
    )
    start = first = 0  # character and token at which the piece begins
    while start < len(text):
        if len(starts) - first <= piece_tokens:
            end = len(text)
        else:
            end = _choose_end(starts, clean, ends, first, piece_tokens, start)
        last = len(starts) if end == len(text) else bisect.bisect_left(starts, end, lo=first)
        yield offset + start, offset + end, last - first
        start, first = end, last


def _cuts(text: str, spans: Sequence[tuple[int, int]]) -> tuple[array[int], bytearray]:
    """Returns the first character of each token, and whether the text may be cut there.

    A cut is clean if no earlier token extends past it, no combining mark follows it and it does
    not separate a carriage return from its line feed.
    """
    starts = array("I")
    clean = bytearray()
    reach = 0
    for a, b in spans:
        # Spans may overlap or lie at the end of the text; bisection needs ascending starts.
        start = max(starts[-1] if starts else 0, min(a, len(text) - 1))
        char = text[start]
        starts.append(start)
        # A zero-width joiner or variation selector belongs to the character before it.
        clean.append(
            reach <= start
            and unicodedata.category(char)[0] != "M"
            and char not in "\u200d\ufe0f"
            and (char.isspace() or text[start - 1 : start] not in _STACKING)
            and not (char == "\n" and text[start - 1 : start] == "\r")
        )
        reach = max(reach, b)
    return starts, clean


def _choose_end(
    starts: Sequence[int],
    clean: Sequence[int],
    ends: Sequence[Sequence[int]],
    first: int,
    piece_tokens: int,
    start: int,
) -> int:
    """Returns the end of a piece that cannot hold the rest of the text."""
    over = first + piece_tokens  # the first token that does not fit
    last = min(piece_tokens, max(piece_tokens // 4, LAST_TOKENS))
    earliest = starts[first + piece_tokens - last]
    for kind in ends:
        best = bisect.bisect_right(kind, starts[over]) - 1
        while best >= 0 and kind[best] > max(earliest, start):
            token = bisect.bisect_left(starts, kind[best], lo=first)
            # A sentence may end inside a token, or where no clean cut is: then the one before is
            # tried.
            if token <= over and starts[token] == kind[best] and clean[token]:
                return kind[best]
            best -= 1
    for token in range(over, max(first, over - max(8, piece_tokens // 4)), -1):
        if starts[token] > start and clean[token]:
            return starts[token]
    if starts[over] > start:
        return starts[over]
    # A character of more tokens than fit is a piece of its own.
    after = bisect.bisect_right(starts, start, lo=first)
    return starts[after] if after < len(starts) else start + 1


# --- Marking --------------------------------------------------------------------------------------

_MARKER_LIKE = re.compile(r"<(?=/?para(?:graph)?s?(?:\b|\s*-?\d))", re.IGNORECASE)
_CONTROL_LIKE = re.compile(
    r"<(?="
    r"[|｜][^<>\n]{0,64}?[|｜]>"  # <|im_end|> and the full-width kind
    r"|/?(?:s|bos|eos|unk|pad|mask|cls|sep|sop|eo[acdhmpt]|bo[adm]|role|think|thinking|answer"
    r"|tool_call|tool_calls|tool_response|tool_result|arg_key|arg_value|code_interpreter"
    r"|im_\w{3,12}|endoftext|(?:start|end|begin|beginning)_of_\w{2,24}|begin_of_text"
    r"|fim_\w{2,12}|file_sep|repo_?name|gh_stars|empty_output|(?:issue|jupyter|commit)_\w{3,24}"
    r"|img|image|video|audio|img_context|global-img|row_\d{1,3}_col_\d{1,3}|fake_token_\w{2,24}"
    r"|(?:seed|minimax):\w{1,24}|mask:\d{1,4}|\d{1,2}mass|tokens_unused_\d{1,4}|\w{2,24}_token)>"
    r"|/?<?SYS>"
    r"|(?:reserved|unused|extra_id|special)_?[\w ]{0,24}>"
    r"|[|][a-z_]{1,24}>|[a-z_]{1,24}[|]>"  # <|turn> and <turn|>
    r"|\[[^<>\[\]\n]{1,64}\]>"
    r"|0x[0-9A-Fa-f]{2}>)"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|IMG|BOS"
    r"|EOS|EOT|PAD|UNK|MASK|CLS|SEP|[gs]MASK|THINK|ARGS|CALL_ID|(?:UNUSED_TOKEN|control|extra_id)_\d{1,4}"
    r"|unused_?\d{1,4}|IMG_BREAK|IMG_END|BEGIN_AUDIO|MODEL_SETTINGS|(?:start|end)_header_id"
    r"|\|[a-z_]{2,24}\||(?-i:PREFIX|MIDDLE|SUFFIX|AUDIO|TRANSCRIBE|multimodal))\])"
    r"|\](?=~b\]|~!?[a-z]\[|![a-z]~\[|<\][a-z]{2,16}\[>)|\[(?=e~\[)"
    r"|>(?=>(?-i:[A-Z]{4,16})<<)|\|(?=\|\|(?-i:[A-Z_]{2,16})\|\|\|)",
    re.IGNORECASE,
)
"""How control tokens of models look whose tokenizer is not at hand; each part is bounded, so that
any text is read in linear time."""


def neutralise_controls(text: str) -> str:
    """Inserts a space after the first character of anything like a control token; markers stay.

    >>> neutralise_controls("<para 3> says <|im_end|>")
    '<para 3> says < |im_end|>'
    """
    return _CONTROL_LIKE.sub(r"\g<0> ", text)


def neutralise(text: str, controls: Collection[str] = ()) -> str:
    """Inserts a space after the first character of anything like a marker or a control token.

    Args:
        text: Text of a document, or any text from outside.
        controls: Exact control tokens of the model, beside those recognised by their form.

    >>> neutralise("<para 3> says <|im_end|>")
    '< para 3> says < |im_end|>'
    """
    text = neutralise_controls(_MARKER_LIKE.sub("< ", text))
    exact = [c for c in controls if len(c) > 1 and c in text]
    if exact:
        # Alternation takes the first match, so no token may come before a longer one it begins.
        longest_first = sorted(exact, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)))
        text = pattern.sub(lambda m: f"{m.group()[0]} {m.group()[1:]}", text)
    return text


def render_piece(document: Document, piece: Piece, controls: Collection[str] = ()) -> str:
    """Returns a piece as a model is shown it: stripped, with plain line ends, neutralised."""
    text = document.text[piece.start : piece.end].replace("\r\n", "\n").replace("\r", "\n")
    return neutralise(text.strip(), controls)


def mark(
    document: Document,
    pieces: Sequence[Piece],
    only: Collection[int] | None = None,
    *,
    controls: Collection[str] = (),
) -> str:
    """Returns the marked view: each piece between paragraph markers, one after another.

    In a reading of several sources, a line with the source's name stands before the first shown
    piece of each.

    Args:
        document: The document.
        pieces: Its pieces.
        only: Indices of the pieces to show; None shows all.
        controls: Control tokens to neutralise beside those recognised by their form.
    """
    lines: list[str] = []
    part = None
    for piece in pieces:
        if only is not None and piece.index not in only:
            continue
        if (holding := document.part_of(piece.start)) is not part and holding is not None:
            part = holding
            lines.append(render_part(part, controls))
        shown = render_piece(document, piece, controls)
        lines.append(f"<para {piece.index}> {shown} </para {piece.index}>")
    return "\n".join(lines)


MAX_NAME_CHARACTERS = 200
"""Of a source's name and of its title, as a model is shown them."""


def render_part(part: Part, controls: Collection[str] = ()) -> str:
    """Returns the line that tells a model which source the next paragraphs are from.

    >>> render_part(Part(source="/a/b.pdf", name="b.pdf", start=0, end=9, title="The Year"))
    'File: b.pdf (The Year)'
    """
    name, title = (
        neutralise(" ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split()), controls)
        for text in (part.name[:MAX_NAME_CHARACTERS], (part.title or "")[:MAX_NAME_CHARACTERS])
    )
    return f"File: {name} ({title})" if title else f"File: {name}"


# --- Marks in model text --------------------------------------------------------------------------


@dataclass(frozen=True)
class Marks:
    """Paragraphs that a model named."""

    valid: tuple[int, ...]
    """Ascending, each once."""
    out_of_range: tuple[int, ...]
    """Numbers that no piece has, ascending, each once."""
    duplicated: tuple[int, ...]
    """Valid numbers named more than once, ascending."""


# Python refuses to convert strings of thousands of digits, and models do loop on digits.
_NUMBER = r"-?\d{1,99}(?!\d)"
_TO = r"[ \t]*(?:-|–|—|\.\.\.?|…|to|through|until)[ \t]*"
_ANGLE = re.compile(
    rf"<para(?:graph)?s?\s*(?P<a>{_NUMBER})\s*>"
    rf"(?:{_TO}<para(?:graph)?s?\s*(?P<b>{_NUMBER})\s*>)?",
    re.IGNORECASE,
)
_CLOSING = re.compile(rf"</para(?:graph)?s?\s*({_NUMBER})\s*>", re.IGNORECASE)
_LIST = rf"#?{_NUMBER}(?:(?:\s*(?:,|;|&|and|or|\+)\s*(?:and\s+)?|{_TO})#?{_NUMBER})*"
# Possessive: models loop on blanks, and plain `\s*` three times over is cubic in a run of them.
_WORDY = re.compile(
    r"\b(?:para(?:graph|s)?s?|passages?|pieces?)\.?\s*+(?:no\.|nos\.|numbers?)?\s*+:?\s*+"
    rf"(?P<list>{_LIST})",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"\[\s*(?P<list>{_LIST})\s*\]")
_BARE = re.compile(rf"[\s\[({{]*(?P<list>{_LIST}|{_NUMBER}(?:\s+{_NUMBER})*)[\s\])}}.]*")
_DENIED = re.compile(r"\b(?:none|neither)\s+of\b[^.\n]*", re.IGNORECASE)


def parse_marks(text: str, num_pieces: int) -> Marks:
    """Parses which paragraphs a model named.

    Markers (`<para 3>`, also as a range) count first; without any, words ("paragraphs 3 and 5"),
    then brackets ("[3]"), then a reply of bare numbers.

    >>> parse_marks("I need <para 3> and <para 5>-<para 7>, not 2 more.", 7)
    Marks(valid=(3, 5, 6), out_of_range=(7,), duplicated=())
    """
    text = _DENIED.sub(" ", text)
    named = list(_angle_numbers(text, num_pieces))
    if not named:
        for pattern in (_WORDY, _BRACKETED):
            named = [
                number
                for match in pattern.finditer(text)
                for number in _listed(match["list"], num_pieces)
            ]
            if named:
                break
    if not named and (match := _BARE.fullmatch(text)):
        named = list(_listed(match["list"], num_pieces))
    counts = Counter(named)
    valid = sorted(n for n in counts if 0 <= n < num_pieces)
    return Marks(
        valid=tuple(valid),
        out_of_range=tuple(sorted(n for n in counts if not 0 <= n < num_pieces)),
        duplicated=tuple(n for n in valid if counts[n] > 1),
    )


def render_marks(indices: Iterable[int]) -> str:
    """Renders paragraphs as a model is taught to name them.

    >>> render_marks([3, 7])
    '<para 3> <para 7>'
    """
    return " ".join(f"<para {index}>" for index in indices) or NO_MARKS


def _angle_numbers(text: str, num_pieces: int) -> Iterator[int]:
    opened = set()
    for match in _ANGLE.finditer(text):
        for number in _range(int(match["a"]), int(match["b"] or match["a"]), num_pieces):
            opened.add(number)
            yield number
    # A closing marker normally repeats its opening one; alone, it still names a paragraph.
    for match in _CLOSING.finditer(text):
        if (number := int(match[1])) not in opened:
            opened.add(number)
            yield number


def _listed(listed: str, num_pieces: int) -> Iterator[int]:
    between = re.compile(rf"#?(?P<a>{_NUMBER})(?:{_TO}#?(?P<b>\d{{1,99}}(?!\d)))?", re.IGNORECASE)
    for match in between.finditer(listed):
        yield from _range(int(match["a"]), int(match["b"] or match["a"]), num_pieces)


def _range(first: int, last: int, num_pieces: int) -> Iterator[int]:
    """Yields first..last; of numbers outside the document, only the two ends."""
    if first > last:
        yield from (first, last)
        return
    if first < 0 or first >= num_pieces:
        yield first
    yield from range(max(first, 0), min(last, num_pieces - 1) + 1)
    if last != first and last >= num_pieces:
        yield last
