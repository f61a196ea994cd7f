"""Rewrites conversations for templates and servers that accept fewer roles or orders of them."""

from __future__ import annotations

from collections.abc import Sequence

from agenticlu.core.records import Message

SEAM = "\n\n"
"""Between two messages made one."""


def fold_system(messages: Sequence[Message]) -> list[Message]:
    r"""Puts the system message at the start of the first user message.

    For models without a system role, such as Gemma 2; a system message without a user message
    behind it becomes one.

    >>> asked = [Message(role="system", content="Be brief."), Message(role="user", content="Who?")]
    >>> fold_system(asked)
    [Message(role='user', content='Be brief.\n\nWho?')]
    """
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if not rest or rest[0].role != "user":
        return [Message(role="user", content=system.content), *rest]
    first = Message(role="user", content=f"{system.content}{SEAM}{rest[0].content}")
    return [first, *rest[1:]]


def merge_turns(messages: Sequence[Message]) -> list[Message]:
    r"""Makes one message of neighbours of the same role, for models that want them to alternate.

    >>> merge_turns([Message(role="user", content="A"), Message(role="user", content="B")])
    [Message(role='user', content='A\n\nB')]
    """
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            content = f"{merged[-1].content}{SEAM}{message.content}"
            merged[-1] = Message(role=message.role, content=content)
        else:
            merged.append(message)
    return merged
