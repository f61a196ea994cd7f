"""The chat format of a model: its tokenizer, its chat template, and what is pinned in it.

Asking, searching and training render with this one class, so that a model is trained on the very
tokens that it is asked with.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agenticlu.core.errors import EngineError, UsageError
from agenticlu.core.records import Message, content_id
from agenticlu.core.settings import Effort
from agenticlu.dialogue.thoughts import split_thinking
from agenticlu.engines.base import Completion
from agenticlu.engines.folding import fold_system

TEMPLATE_DATE = datetime(2024, 7, 26)
"""What templates are told is today: the date that Llama 3's own falls back to. A date that changes
would end every shared prefix, and training would show another than asking."""
TEMPLATE_OPTIONS: Mapping[str, Any] = {
    "date_string": TEMPLATE_DATE.strftime("%d %b %Y"),
    # One switch, under the names that Qwen, and DeepSeek and Granite, have for it.
    "enable_thinking": False,
    "thinking": False,
}
TEMPLATE_S = 10.0
"""Seconds after which a template is given up."""
OPEN_THOUGHT = re.compile(
    r"(?P<open><|\[)(?P<name>think|thinking|thought|reasoning|seed:think|THINK)(?P<close>>|\])\s*$"
)
"""The end of a prompt that opens a thought."""
DIRECTIVES = (*"aAbBcdeFHIjmMpSTuUwWxXyYD", "-d", "-m", "-H", "-I", "-M", "-S", "%")
"""What a date's form may hold behind '%'."""
ASKED = (Message(role="user", content="?"),)
"""The shortest conversation that can be answered."""


def pin_date(template: str) -> str:
    """Returns a template that writes `TEMPLATE_DATE` in place of today, whatever form it asks for.

    By a macro of its own, for transformers passes no functions to a template.

    >>> pin_date("{{ today }}"), "macro" in pin_date("{{ strftime_now(form) }}")
    ('{{ today }}', True)
    """
    if "strftime_now" not in template:
        return template
    written = "format" + "".join(
        f".replace('%{one}', {json.dumps(TEMPLATE_DATE.strftime(f'%{one}'))})" for one in DIRECTIVES
    )
    # The line break is no part of the text: templates are read with trim_blocks.
    return f"{{% macro strftime_now(format) %}}{{{{ {written} }}}}{{% endmacro %}}\n{template}"


class ChatFormat:
    """The tokenizer and the chat template of one model.

    Args:
        tokenizer: A tokenizer of transformers; without a chat template it only continues text.
        source: Named in errors.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        self._source = source
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend
        self._special = _special_tokens(backend)
        self._controls = _control_pattern(self._special)
        self._choices: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
        template = tokenizer.chat_template
        if template and not isinstance(template, str):  # several by name, one for talk
            template = tokenizer.get_chat_template()
        self._template = template and pin_date(template)
        self._leads: dict[tuple[str, ...], list[int]] = {}
        self._opens: bool | None = None
        self._options: Mapping[str, Any] = TEMPLATE_OPTIONS
        self._tags = _thought_tags(self._special)
        self._in_parts = False
        self.system_role = bool(tokenizer.chat_template) and self._takes_system_role()

    def render(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """Renders a conversation as the template does, its system turn folded where it must be.

        Args:
            messages: The conversation.
            prompt: Ends with the opening of the assistant's turn.

        Raises:
            EngineError: The tokenizer has no chat template, or its template rejects the
                conversation or does not end.
        """
        rows = [{"role": one.role, "content": one.content} for one in messages]
        return self.render_rows(rows, prompt=prompt)

    def render_rows(self, rows: Sequence[Mapping[str, Any]], *, prompt: bool = True) -> str:
        """Renders messages of any roles; see `render`."""
        if not self.tokenizer.chat_template:
            raise EngineError(
                f"The tokenizer of {self._source!r} has no chat template, so it cannot hold a"
                " conversation.",
                hint="Use an instruction-tuned checkpoint, or add chat_template.jinja to it.",
            )
        turns = [{"role": row["role"], "content": self.disarm(row["content"])} for row in rows]
        if not self.system_role and turns and turns[0]["role"] == "system":
            count = 2 if len(turns) > 1 and turns[1]["role"] == "user" else 1
            folded = fold_system([Message.model_validate(turn) for turn in turns[:count]])
            turns[:count] = [{"role": one.role, "content": one.content} for one in folded]
        text = self._apply(turns, prompt=prompt)
        # Some templates write a begin token and a copy of what already starts with one.
        bos = getattr(self.tokenizer, "bos_token", None)
        return text.removeprefix(bos) if bos and text.startswith(bos * 2) else text

    def render_reply(self, rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Renders a conversation that ends in a reply.

        Returns:
            The prompt that asks for the reply, as `render` gives it, and what the model should
            write after it: the reply, and whatever the template puts around it. Where the
            prompt opens a thought and the finished turn shows none, the reply closes it first.

        Raises:
            EngineError: See `render`; or the template does not show the reply.
        """
        before = self.render_rows(rows[:-1])
        after = self.render_rows(rows, prompt=False)
        if after.startswith(before):
            return before, after[len(before) :]
        said = self.disarm(rows[-1]["content"]).strip()
        _, found, end = after.rpartition(said)
        if not said or not found:
            raise EngineError(
                f"The chat template of {self._source!r} leaves no target: it does not show the"
                " reply in a finished turn.",
                hint="It may drop assistant messages; check what it renders.",
            )
        opened = OPEN_THOUGHT.search(before)
        newline = "" if before.endswith("\n") else "\n"
        closing = ""
        if opened:
            closing = f"{newline}{opened['open']}/{opened['name']}{opened['close']}\n\n"
        return before, f"{closing}{said}{end}"

    def _apply(self, turns: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        if self._in_parts:
            turns = [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
        text: str = _run_bounded(
            lambda: self.tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=prompt,
                **self._options,
            ),
            self._source,
            [turn["role"] for turn in turns],
        )
        return text

    def disarm(self, text: str) -> str:
        """Returns a text in which no control token can be found.

        A document may hold '<|end|>' as plain words; taken for the token, it would end the turn.
        A space goes behind the first character of such words.
        """
        if self._controls is None:
            return text
        return self._controls.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)

    def set_effort(self, effort: Effort) -> None:
        """Sets how much the model is asked to think, by the switches that templates have.

        Replies are asked for without thoughts unless they are wished for: so the model is trained.
        """
        thinks = effort not in ("auto", "off")
        options = {**TEMPLATE_OPTIONS, "enable_thinking": thinks, "thinking": thinks}
        if effort not in ("auto", "on"):  # gpt-oss knows no less than 'low'
            options["reasoning_effort"] = "low" if effort == "off" else effort
        self._options = options
        self._opens = None
        self._choices.clear()

    @property
    def opens_thought(self) -> bool:
        """Whether the prompts themselves end in the tag that opens a thought."""
        if self._opens is None:
            self._opens = False
            with contextlib.suppress(EngineError):  # which asking will raise, too
                self._opens = OPEN_THOUGHT.search(self.render(ASKED)) is not None
        return self._opens

    def part_thought(self, sampled: Completion) -> Completion:
        """Returns a sampled reply apart from the thought before it; itself if there is none."""
        ids = sampled.token_ids or ()
        text = self.decode_tags(ids) if self._tags.intersection(ids) else sampled.text
        split = split_thinking(text, opened=self.opens_thought)
        if not (split.thinking or split.is_cut) and split.reply == text:
            return sampled
        cut = split.is_cut and sampled.finish_reason == "length"
        return Completion(
            "" if cut else split.reply.strip(), sampled.finish_reason, thinking=split.thinking
        )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt, up to the opening of the assistant's turn."""
        return self.encode_text(self.render(messages))

    def encode_to_score(self, messages: Sequence[Message], choices: Sequence[str]) -> list[int]:
        """Returns the ids of a prompt, up to where a reply that is one of the choices differs."""
        self.first_tokens(choices)
        return self.encode(messages) + self._leads[tuple(choices)]

    def encode_plain(self, text: str) -> list[int]:
        """Returns the ids of a text to continue, with the start token if the tokenizer adds one.

        Raises:
            UsageError: There are none.
        """
        ids = list(self.tokenizer(self.disarm(text))["input_ids"])
        if not ids:
            raise UsageError("The text to continue is empty: it has no tokens.")
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Returns the ids of a text; nothing is added."""
        if self._backend is not None:
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_reply(self, messages: Sequence[Message], reply: str) -> list[int]:
        """Returns the ids of a reply to a conversation as the template shows it, without its end.

        Raises:
            EngineError: See `render_reply`.
        """
        rows = [{"role": one.role, "content": one.content} for one in messages]
        _, shown = self.render_reply([*rows, {"role": "assistant", "content": reply}])
        before, found, _ = shown.rpartition(self.disarm(reply))
        # White space that a template writes before a reply belongs to the reply's first token.
        return self.encode_text(before + found if found else shown)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of sampled ids, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_tags(self, ids: Sequence[int]) -> str:
        """Returns the text of sampled ids, with those special tokens that mark thoughts."""
        if not self._tags.intersection(ids):
            return self.decode(ids)
        kept = [one for one in ids if one in self._tags or one not in self._special]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def token_text(self, token: int) -> str:
        """Returns the text of one token, special ones by their name."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False)
        return text

    def first_tokens(self, choices: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns, per choice, the ids that a reply of this choice may start with.

        Found by rendering a conversation that ends in the choice, so templates that put a space or
        a line break before it are right. 'yes', 'Yes' and 'YES' count together.

        Raises:
            EngineError: Two choices start with the same token.
        """
        key = tuple(choices)
        if key not in self._choices:
            self._choices[key] = self._find_first_tokens(key)
        return self._choices[key]

    def _find_first_tokens(self, choices: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        opening = self.encode(ASKED)
        lead = self._leads[choices] = self._find_lead(opening, choices)
        opening += lead
        exact = {choice: self._first_token(opening, choice) for choice in choices}
        owners = {token: choice for choice, token in exact.items()}
        if len(owners) < len(choices):
            clash = [one for one in choices if owners[exact[one]] != one]
            raise EngineError(
                f"The choices {choices} are indistinguishable by their first token:"
                f" {clash[0]!r} starts like {owners[exact[clash[0]]]!r}.",
                hint="Use labels that differ in their first letter, such as A, B, C.",
            )
        found = {choice: [token] for choice, token in exact.items()}
        for choice in choices:
            for variant in (choice.capitalize(), choice.upper()):
                token = self._first_token(opening, variant)
                if self.token_text(token).strip() != variant:
                    continue  # only the start of the variant, so perhaps of other words
                if owners.setdefault(token, choice) == choice and token not in found[choice]:
                    found[choice].append(token)
        return {choice: tuple(tokens) for choice, tokens in found.items()}

    def _find_lead(self, opening: list[int], choices: Sequence[str]) -> list[int]:
        """Returns the ids that every reply has between the prompt and its first word.

        Such as the name of a channel, the end of a thought that the prompt opens, or a blank.
        """
        probe = content_id("reply head probe")
        head = "".join(self._render_choice(probe)).partition(probe)[0].strip()
        replies = [self._encode_choice(choice) for choice in choices]
        if any(ids[: len(opening)] != opening for ids in replies):
            return []
        head = head.removeprefix(self.render(ASKED).strip()).strip()
        common: list[int] = []
        for tokens in zip(*(ids[len(opening) :] for ids in replies), strict=False):
            longer = [*common, tokens[0]]
            text = self.tokenizer.decode(longer, skip_special_tokens=False).strip()
            if len(set(tokens)) > 1 or not head.startswith(text):
                break
            common = longer
        return common

    def _render_choice(self, choice: str) -> tuple[str, str]:
        replied = [{"role": "user", "content": "?"}, {"role": "assistant", "content": choice}]
        return self.render_reply(replied)

    def _encode_choice(self, choice: str) -> list[int]:
        """Returns the ids of a prompt and the reply to it, the prompt's as when it is asked."""
        prompt, reply = self._render_choice(choice)
        ids, asked = self.encode_text(prompt + reply), self.encode_text(prompt)
        if ids[: len(asked)] == asked:
            return ids
        return asked + self.encode_text(reply)  # a token would span both, such as a blank line

    def _first_token(self, opening: list[int], choice: str) -> int:
        ids = self._encode_choice(choice)
        if ids[: len(opening)] == opening and len(ids) > len(opening):
            return ids[len(opening)]
        alone = self.encode_text(choice)
        if not alone:
            raise EngineError(f"The choice {choice!r} has no token of its own.")
        return alone[0]

    def _takes_system_role(self) -> bool:
        """Whether the template shows a system turn; finds out how it takes a message's text."""
        probe = content_id("system role probe")
        user = {"role": "user", "content": probe}
        for self._in_parts in (False, True):
            with contextlib.suppress(EngineError):
                if probe in self._apply([user], prompt=False):
                    break
        else:  # says what is wrong once it is asked to render something
            self._in_parts = False
            return True
        system = [{"role": "system", "content": probe}, {"role": "user", "content": "?"}]
        try:
            return probe in self._apply(system, prompt=False)
        except EngineError:
            return False


def _special_tokens(backend: Any) -> dict[int, str]:
    """Returns the special tokens of a tokenizer, which decoding drops."""
    added = {} if backend is None else backend.get_added_tokens_decoder()
    return {id_: token.content for id_, token in added.items() if token.special}


def _thought_tags(special: Mapping[int, str]) -> frozenset[int]:
    """Returns those special tokens that mark thoughts."""
    found = {id_ for id_, text in special.items() if split_thinking(text).reply != text}
    if "<|channel|>" in special.values():
        found |= {id_ for id_, text in special.items() if text in ("<|message|>", "<|constrain|>")}
    else:  # other formats end turns by tokens that look like harmony's
        found = {id_ for id_ in found if not special[id_].startswith("<|")}
    return frozenset(found)


def _control_pattern(special: Mapping[int, str]) -> re.Pattern[str] | None:
    """Matches the control tokens of a tokenizer; None if it has none that could be written."""
    texts = sorted((text for text in special.values() if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _run_bounded(render: Callable[[], str], source: str, roles: Sequence[str]) -> str:
    """Renders in a thread, so that a template without an end is given up.

    Raises:
        EngineError: The template fails, or takes longer than `TEMPLATE_S`.
    """
    outcome: list[str | Exception] = []

    def work() -> None:
        try:
            outcome.append(render())
        except Exception as error:  # a template may raise anything
            outcome.append(error)

    thread = threading.Thread(target=work, name="agenticlu-template", daemon=True)
    thread.start()
    thread.join(TEMPLATE_S)
    if thread.is_alive():
        # The thread runs Python alone, so it notices at its next instruction.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError)
        )
        raise EngineError(
            f"The chat template of {source!r} did not end within {TEMPLATE_S:g} s.",
            hint="Check its loops; it is in chat_template.jinja or tokenizer_config.json.",
        )
    result = outcome[0]
    if isinstance(result, str):
        return result
    reason = (str(result).splitlines() or [type(result).__name__])[0]
    raise EngineError(
        f"The chat template of {source!r} rejects a conversation with the roles"
        f" {', '.join(roles)}: {reason}",
        hint="Check chat_template.jinja, or take the model's own from its hub page.",
    ) from result
