"""The same rows for other trainers: how OpenRLHF cuts a preference row, checked against ours.

OpenRLHF renders `prompt` with the chat template up to where the model writes, renders
`prompt + reply` whole, and takes the rest by the *length of the prompt's text*: a template that is
not prefix-stable gives fragments in silence. TRL reads the rows as they are.
"""

from __future__ import annotations

from typing import Any

from agenticlu.core.errors import TrainingError

Messages = list[dict[str, str]]


def openrlhf_pair(
    tokenizer: Any, prompt: Messages, chosen: Messages, rejected: Messages
) -> tuple[str, str, str]:
    """Returns (prompt, chosen, rejected) as OpenRLHF's --apply_chat_template cuts them.

    Raises:
        TrainingError: The template is not prefix-stable, so OpenRLHF would train on fragments.
    """
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    replies = []
    for reply in (chosen, rejected):
        whole = tokenizer.apply_chat_template([*prompt, *reply], tokenize=False)
        if not whole.startswith(text):
            raise TrainingError(
                "The chat template is not prefix-stable: OpenRLHF would cut replies in the middle.",
                hint="Use agenticlu train, or a template that only appends.",
            )
        replies.append(whole[len(text) :])
    return text, replies[0], replies[1]
