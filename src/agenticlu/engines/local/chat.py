"""Chat format: conversations and plain texts to token ids and back, by the model's own rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agenticlu.core.errors import EngineError, UsageError
from agenticlu.core.records import Message, content_id

TEMPLATE_OPTIONS = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""Pinned, for a date that changes would end every shared prefix, and thinking costs tokens."""


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
        self._controls = _control_pattern(backend)
        self._choices: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
        self.system_role = bool(tokenizer.chat_template) and self._takes_system_role()

    def render(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """Renders a conversation as the template does.

        Args:
            messages: Folded first where the template knows no system role.
            prompt: Ends with the opening of the assistant's turn.

        Raises:
            EngineError: The tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise EngineError(
                f"The tokenizer of {self._source!r} has no chat template, so it cannot hold a"
                " conversation.",
                hint="Use an instruction-tuned checkpoint, or add chat_template.jinja to it.",
            )
        rows = [
            {"role": message.role, "content": self.disarm(message.content)} for message in messages
        ]
        if not self.system_role and rows and rows[0]["role"] == "system":
            system = rows.pop(0)["content"]
            if rows and rows[0]["role"] == "user":
                rows[0]["content"] = f"{system}\n\n{rows[0]['content']}"
            else:
                rows.insert(0, {"role": "user", "content": system})
        text: str = self.tokenizer.apply_chat_template(
            rows, tokenize=False, add_generation_prompt=prompt, **TEMPLATE_OPTIONS
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

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt, up to the opening of the assistant's turn."""
        return self.encode_text(self.render(messages))

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

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of sampled ids, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
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
        asked = [Message(role="user", content="?")]
        opening = self.encode(asked)
        exact = {choice: self._first_token(asked, opening, choice) for choice in choices}
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
                token = self._first_token(asked, opening, variant)
                if self.token_text(token).strip() != variant:
                    continue  # only the start of the variant, so perhaps of other words
                if owners.setdefault(token, choice) == choice and token not in found[choice]:
                    found[choice].append(token)
        return {choice: tuple(tokens) for choice, tokens in found.items()}

    def _first_token(self, asked: list[Message], opening: list[int], choice: str) -> int:
        replied = [*asked, Message(role="assistant", content=choice)]
        ids = self.encode_text(self.render(replied, prompt=False))
        if ids[: len(opening)] == opening and len(ids) > len(opening):
            return ids[len(opening)]
        alone = self.encode_text(choice)
        if not alone:
            raise EngineError(f"The choice {choice!r} has no token of its own.")
        return alone[0]

    def _takes_system_role(self) -> bool:
        from jinja2.exceptions import TemplateError

        probe = content_id("system role probe")
        rows = [{"role": "system", "content": probe}, {"role": "user", "content": "?"}]
        try:
            return probe in self.tokenizer.apply_chat_template(rows, tokenize=False)
        except TemplateError:
            return False


def find_end_ids(*sources: Any) -> frozenset[int]:
    """Returns every token that ends a reply.

    Args:
        sources: What may have an `eos_token_id` (one, several or None): generation settings, a
            model's configuration, a tokenizer.
    """
    found: set[int] = set()
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def _control_pattern(backend: Any) -> re.Pattern[str] | None:
    """Matches the control tokens of a tokenizer; None if it has none that could be written."""
    added = {} if backend is None else backend.get_added_tokens_decoder()
    texts = sorted(
        (token.content for token in added.values() if token.special and len(token.content) > 1),
        key=len,
        reverse=True,
    )
    return re.compile("|".join(map(re.escape, texts))) if texts else None
