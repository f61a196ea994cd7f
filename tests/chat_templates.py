"""Chat templates in the form of the families that people run, written for these tests.

Each does what its family's does to a conversation: where the system turn goes, what opens and ends
a turn, which thought a prompt opens, what it drops of earlier turns, whether it writes the date.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A chat template and the tokens that it is written in."""

    template: str
    tokens: tuple[str, ...]
    """Control tokens."""
    end: str
    """Ends a reply."""
    start: str | None = None
    """Begin-of-text token."""
    rewrites: bool = False
    """Whether a later prompt shows earlier turns otherwise than their own prompts did."""


LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
  {%- else %}
    {%- set date_string = "26 Jul 2024" %}
  {%- endif %}
{%- endif %}
{%- set system = "" %}
{%- if messages[0]["role"] == "system" %}
  {%- set system = messages[0]["content"] | trim %}
  {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nKnowledge until: December 2023\n" }}
{{- "Today: " + date_string + "\n\n" + system + "<|eot_id|>" }}
{%- for m in messages %}
{{- "<|start_header_id|>" + m["role"] + "<|end_header_id|>\n\n" + m["content"] | trim }}
{{- "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- "<|start_header_id|>assistant<|end_header_id|>\n\n" }}
{%- endif %}"""
CHATML = """{% for m in messages %}
{%- if loop.first and m["role"] != "system" %}
{{- "<|im_start|>system\nYou help with any task.<|im_end|>\n" }}
{%- endif %}
{{- "<|im_start|>" + m["role"] + "\n" + m["content"] + "<|im_end|>" + "\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{% endif %}"""
QWEN3 = """{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
  {%- if m.role == "user" and ns.last < 0 %}
    {%- set ns.last = messages | length - 1 - loop.index0 %}
  {%- endif %}
{%- endfor %}
{%- for m in messages %}
  {%- set said = m.content %}
  {%- if m.role == "assistant" %}
    {%- set thought = "" %}
    {%- if "</think>" in said %}
      {%- set thought = said.split("</think>")[0].split("<think>")[-1].strip("\n") %}
      {%- set said = said.split("</think>")[-1].lstrip("\n") %}
    {%- endif %}
    {%- if loop.index0 > ns.last %}
      {%- set said = "<think>\n" + thought + "\n</think>\n\n" + said.lstrip("\n") %}
    {%- endif %}
  {%- endif %}
  {{- "<|im_start|>" + m.role + "\n" + said + "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|im_start|>assistant\n" }}
  {%- if enable_thinking is defined and enable_thinking is false %}
    {{- "<think>\n\n</think>\n\n" }}
  {%- endif %}
{%- endif %}"""
QWEN35 = QWEN3.replace(
    """  {%- endif %}
{%- endif %}""",
    """  {%- else %}
    {{- "<think>\\n" }}
  {%- endif %}
{%- endif %}""",
)
GEMMA = """{{ bos_token }}
{%- if messages[0]["role"] == "system" %}
  {{- raise_exception("System role not supported") }}
{%- endif %}
{%- for m in messages %}
  {%- if (m["role"] == "user") != (loop.index0 % 2 == 0) %}
    {{- raise_exception("Roles must alternate user/assistant/user/assistant/...") }}
  {%- endif %}
  {%- set role = "model" if m["role"] == "assistant" else m["role"] %}
  {{- "<start_of_turn>" + role + "\n" + m["content"] | trim + "<end_of_turn>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<start_of_turn>model\n" }}{% endif %}"""
MISTRAL = """{%- set system = "" %}
{%- if messages[0]["role"] == "system" %}
  {%- set system = messages[0]["content"] %}
  {%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for m in messages %}
  {%- if m["role"] == "user" and loop.last and system %}
    {{- "[INST] " + system + "\n\n" + m["content"] + "[/INST]" }}
  {%- elif m["role"] == "user" %}
    {{- "[INST] " + m["content"] + "[/INST]" }}
  {%- else %}
    {{- " " + m["content"] | trim + eos_token }}
  {%- endif %}
{%- endfor %}"""
HARMONY = """{{- "<|start|>system<|message|>Current date: " + strftime_now("%Y-%m-%d") }}
{{- "\n\nReasoning: " + (reasoning_effort or "medium") + "\n<|end|>" }}
{%- if messages[0].role == "system" %}
  {{- "<|start|>developer<|message|># Instructions\n\n" + messages[0].content + "<|end|>" }}
  {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
  {%- if m.role == "assistant" %}
    {{- "<|start|>assistant<|channel|>final<|message|>" + m.content }}
    {{- "<|return|>" if loop.last and not add_generation_prompt else "<|end|>" }}
  {%- else %}
    {{- "<|start|>" + m.role + "<|message|>" + m.content + "<|end|>" }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start|>assistant" }}{% endif %}"""
PHI = """{% for m in messages %}
{{- "<|" + m["role"] + "|>\n" + m["content"] + "<|end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>\n" }}{% else %}{{- eos_token }}{% endif %}"""
DEEPSEEK = """{{ bos_token }}
{%- if messages[0]["role"] == "system" %}
  {{- messages[0]["content"] }}
  {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
  {%- if m["role"] == "user" %}
    {{- "<|User|>" + m["content"] }}
  {%- else %}
    {{- "<|Assistant|></think>" + m["content"] + eos_token }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|Assistant|>" + ("<think>" if thinking else "</think>") }}
{%- endif %}"""
DEEPSEEK_R1 = DEEPSEEK.replace(
    '"<|Assistant|></think>" + m["content"]',
    '"<|Assistant|>" + m["content"].split("</think>")[-1]',
).replace('("<think>" if thinking else "</think>")', '"<think>\\n"')
GLM = """[gMASK]<sop>
{%- for m in messages %}
  {{- "<|" + m.role + "|>\n" }}
  {%- if m.role == "assistant" %}{{- "<think></think>\n" + m.content | trim }}
  {%- else %}{{- m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|assistant|>\n" + ("<think></think>\n" if enable_thinking is false else "<think>") }}
{%- endif %}"""
GRANITE = """{%- if messages[0]["role"] == "system" %}
  {%- set system = messages[0]["content"] %}
  {%- set messages = messages[1:] %}
{%- else %}
  {%- set system = "Today's Date: " + strftime_now("%B %d, %Y") + ".\nYou are a helper." %}
{%- endif %}
{{- "<|start_of_role|>system<|end_of_role|>" + system + "<|end_of_text|>\n" }}
{%- for m in messages %}
{{- "<|start_of_role|>" + m["role"] + "<|end_of_role|>" + m["content"] + "<|end_of_text|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_of_role|>assistant<|end_of_role|>" }}{% endif %}"""
PARTS = """{{ bos_token }}
{%- for m in messages %}
{{- "<|turn|>" + m["role"] + "\n" }}
{%- for part in m["content"] if part["type"] == "text" %}{{ part["text"] }}{% endfor %}
{{- "<|endturn|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|turn|>assistant\n" }}{% endif %}"""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
FAMILIES = {
    "Llama 3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    # SmolLM2's begin token is the one that opens every turn.
    "SmolLM2": Family(CHATML, CHATML_TOKENS, "<|im_end|>", "<|im_start|>"),
    "Qwen3": Family(QWEN3, CHATML_TOKENS, "<|im_end|>", rewrites=True),
    "Qwen3.5": Family(QWEN35, CHATML_TOKENS, "<|im_end|>", rewrites=True),
    "Gemma": Family(GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<bos>"),
    "Mistral": Family(MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>", rewrites=True),
    "gpt-oss": Family(
        HARMONY,
        ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|end|>"),
        "<|return|>",
        rewrites=True,
    ),
    "Phi": Family(PHI, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>"),
    "DeepSeek V3.1": Family(
        DEEPSEEK, ("<|begin|>", "<|User|>", "<|Assistant|>", "<|eos|>"), "<|eos|>", "<|begin|>"
    ),
    "DeepSeek R1": Family(
        DEEPSEEK_R1,
        ("<|begin|>", "<|User|>", "<|Assistant|>", "<|eos|>"),
        "<|eos|>",
        "<|begin|>",
        rewrites=True,
    ),
    "GLM": Family(GLM, ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), "<|user|>"),
    "Granite": Family(
        GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), "<|end_of_text|>"
    ),
    "content in parts": Family(PARTS, ("<bos>", "<|turn|>", "<|endturn|>"), "<|endturn|>", "<bos>"),
}


def make_tokenizer(tokenizer: Any, family: Family) -> Any:
    """Returns a copy of a tokenizer that talks in a family's form."""
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"additional_special_tokens": list(family.tokens)})
    changed.eos_token = family.end
    changed.bos_token = family.start
    changed.chat_template = family.template
    return changed
