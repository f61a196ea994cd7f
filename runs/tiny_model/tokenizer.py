"""Builds the tiny model's tokenizer: every word of the world is one token, any text round-trips.

The vocabulary is listed, not learned: 256 bytes, each word of the world and of the prompts with its
leading space, the few words that begin a line without one, and the numbers 0 to 1023. There are no
merges; a pre-token that is in the vocabulary is one token (`ignore_merges`, as in Llama 3) and any
other falls apart into its bytes.

Text that holds one of the special tokens literally (`<|end|>`) is read as that token: whoever
renders foreign text into a prompt has to neutralise it first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from agenticlu.demo.lexicon import FILLER, world_words
from agenticlu.dialogue.run import RELEVANCE_CHOICES
from agenticlu.dialogue.steps import KINDS, Profile
from agenticlu.documents import NO_MARKS

SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
NUM_NUMBERS = 1024
"""Numbers that are one token: enough markers for 16K tokens in pieces of 16."""
PATTERN = r"</?para(?= )| ?\p{L}+| ?\p{N}+|\n\n|[^\p{L}\p{N}]"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A space follows every role, none the generation prompt: the model samples " Mira ...", the text
is stripped, and rendered again it has its space back, so the ids are the sampled ones."""
MAX_POSITIONS = 32768


def prompt_words(profile: Profile) -> tuple[set[str], set[str]]:
    """Returns the words of all requests: those that follow a space, those that begin a line."""
    spaced: set[str] = {"Passage", *RELEVANCE_CHOICES, *"ABCD", "Answer", "Question"}
    spaced |= {*NO_MARKS.removesuffix(".").split(), "not", "say"}
    bare: set[str] = {"Question", "Answer"}
    for kind in KINDS:
        for wording in getattr(profile, kind):
            words = re.findall(r"\w+|[^\w\s]", re.sub(r"\{\w+\}", "", wording.text))
            spaced.update(word for word in words if word.isalpha())
            bare.add(words[0])
    return spaced, bare


def build_vocabulary(profile: Profile) -> dict[str, int]:
    """Returns the vocabulary: special tokens first, then bytes, then words, then numbers."""
    spaced, bare = prompt_words(profile)
    words = {word for word in world_words() if word.isalpha()} | spaced
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), "<para", "</para", "\u010a\u010a"]
    tokens += [f"\u0120{word}" for word in sorted(words)]
    tokens += sorted(bare | {s[0].upper() + s.split()[0][1:] for s in FILLER})
    tokens += [f"\u0120{number}" for number in range(NUM_NUMBERS)]
    unique = list(dict.fromkeys(tokens))
    return {token: i for i, token in enumerate(unique)}


def build_tokenizer(profile: Profile) -> Tokenizer:
    """Returns the tokenizer."""
    tokenizer = Tokenizer(BPE(build_vocabulary(profile), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tokenizer


def save_tokenizer(profile: Profile, folder: Path) -> Tokenizer:
    """Writes the tokenizer's files in Hugging Face layout and returns the tokenizer."""
    tokenizer = build_tokenizer(profile)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer


def render_chat(messages: Iterable[tuple[str, str]]) -> str:
    """Renders (role, content) messages as the chat template does.

    >>> render_chat([("user", "Who?"), ("assistant", "Mira.")])
    '<|bos|><|user|> Who?<|end|><|assistant|> Mira.<|end|>'
    """
    return "<|bos|>" + "".join(f"<|{role}|> {content}<|end|>" for role, content in messages)
