"""Loads a checkpoint: weights, chat format, and a forward pass tried on packed rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from agenticlu.attention.kernels import PLAIN_DEVICES
from agenticlu.core.errors import (
    EngineError,
    ModelNotFoundError,
    Registry,
    StoreError,
    UsageError,
    missing_dependency,
    require_known,
)
from agenticlu.core.records import Message, content_id
from agenticlu.engines.folding import fold_system
from agenticlu.engines.local.decoder import Decoder, Forward
from agenticlu.engines.local.kvcache import AttentionPlan, PrefixCache, register

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
        if not self.system_role:
            messages = fold_system(messages)
        rows = [
            {"role": message.role, "content": self.disarm(message.content)} for message in messages
        ]
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


def _control_pattern(backend: Any) -> re.Pattern[str] | None:
    """Matches the control tokens of a tokenizer; None if it has none that could be written."""
    added = {} if backend is None else backend.get_added_tokens_decoder()
    texts = sorted(
        (token.content for token in added.values() if token.special and len(token.content) > 1),
        key=len,
        reverse=True,
    )
    return re.compile("|".join(map(re.escape, texts))) if texts else None


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of log-probabilities against the model's own pass over the same ids."""
REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""Errors from trying a model of an unforeseen kind."""
TORN = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StoreError)
"""Errors from reading a truncated file or one in another format."""
FAST_LOADERS = Registry("fast loader", {"llama": "agenticlu.demo.small_llama:load_small_llama"})
"""Loaders that are tried before transformers, on a CPU in fp32; None means: not mine."""
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A model that is ready to run."""

    forward: Forward
    chat: ChatFormat
    device: torch.device
    dtype: torch.dtype
    end_ids: frozenset[int]
    context_tokens: int | None


class GenericForward:
    """The model's own forward pass, with attention left to the plan."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self, ids_T: Tensor, positions_T: Tensor, plan: AttentionPlan, last: Tensor
    ) -> Tensor:
        """Returns fp32 logits (rows, V) of the rows in `last`."""
        output = self._model(
            input_ids=ids_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            logits_to_keep=last,
            agenticlu_plan=plan,
        )
        logits: Tensor = output.logits[0].float()
        return logits


def load_checkpoint(path: Path, device: str | None, dtype: str | None) -> Checkpoint:
    """Loads model and tokenizer from a folder.

    Raises:
        ModelNotFoundError: The folder has no model.
        UsageError: Unknown device or dtype.
        EngineError: The model does not run here.
    """
    check_folder(path)
    place = _choose_device(device)
    if dtype is not None:
        require_known(dtype, DTYPES, kind="dtype", error=UsageError)
    small: Checkpoint | None = None
    if place.type == "cpu" and dtype in (None, "float32"):
        try:
            small = FAST_LOADERS.load("llama")(path)
        except TORN as error:
            raise _torn(path, error) from error
    return small or _load_with_transformers(path, place, dtype)


def _load_with_transformers(path: Path, place: torch.device, dtype: str | None) -> Checkpoint:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "local") from error
    from transformers.utils import logging

    quieten: Callable[[], None] = logging.disable_progress_bar
    quieten()
    wanted = DTYPES[dtype] if dtype else (torch.float32 if place.type == "cpu" else "auto")
    attention = register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=wanted, attn_implementation=attention
        )
    except TORN as error:
        raise _torn(path, error) from error
    model = model.to(place).eval()
    model.requires_grad_(False)
    numbers = next(model.parameters()).dtype
    return Checkpoint(
        forward=choose_forward(model, attention, str(path)),
        chat=ChatFormat(tokenizer, str(path)),
        device=place,
        dtype=numbers,
        end_ids=find_end_ids(getattr(model, "generation_config", None), model.config, tokenizer),
        context_tokens=find_context_tokens(model.config),
    )


def _torn(path: Path, error: Exception) -> EngineError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{str(path)!r} could not be loaded: {reason}",
        hint="A file in it may be truncated or in another format: copy or export the model again.",
    )


def check_folder(path: Path) -> None:
    """Raises if the folder lacks what a model needs."""
    if not path.is_dir():
        raise ModelNotFoundError(f"Model folder {str(path)!r} does not exist.")
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{str(path)!r} is not a model folder: no config.json.")
    if not any(found for pattern in WEIGHTS for found in path.glob(pattern)):
        raise ModelNotFoundError(
            f"{str(path)!r} has no weights (model.safetensors).",
            hint="An adapter alone does not run: merge it into its base model first."
            if (path / "adapter_config.json").is_file()
            else None,
        )


def choose_forward(model: Any, attention: str, source: str) -> Forward:
    """Returns the packed forward pass, if it agrees with the model's own.

    Raises:
        EngineError: It does not agree, so the architecture cannot run in process.
    """
    weight = next(model.parameters())
    kernels = [False] if weight.device.type == "cpu" else [False, True]
    reason = ""
    for plain in kernels:
        if plain:
            PLAIN_DEVICES.add(weight.device.type)
        try:
            reference = _reference_logprobs(model, attention)
            forward = GenericForward(model)
            off = float((_own_logprobs(forward, model) - reference).abs().max())
            if off <= TOLERANCE[weight.dtype]:
                return forward
            reason = f"its log-probabilities are off by {off:.2g}"
        except REFUSALS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise EngineError(
        f"{source!r} ({model.config.model_type}) cannot run in this process: {reason}.",
        hint="Serve it (for example with vLLM) and give its address with --base-url.",
    )


def _probe_ids(model: Any) -> list[int]:
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [(7 * i * i + 3 * i + 5) % size for i in range(24)]


@torch.inference_mode()
def _reference_logprobs(model: Any, attention: str) -> Tensor:
    """The model's own pass with stock attention, log-probabilities after the last token."""
    device = next(model.parameters()).device
    model.set_attn_implementation("eager")
    try:
        ids = torch.tensor([_probe_ids(model)], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    finally:
        model.set_attn_implementation(attention)
    return torch.log_softmax(logits, dim=-1)


def _own_logprobs(forward: Forward, model: Any) -> Tensor:
    """The same, read in three goes: a prompt, one that parts from it, and decoded branches."""
    weight = next(model.parameters())
    decoder = Decoder(forward, PrefixCache(1 << 30), weight.device, weight.dtype)
    ids = _probe_ids(model)
    decoder.read([ids[:9] + ids[3:5]])
    reading = decoder.read([ids[:16], ids[:-2]])[1]
    decoder.join([(reading, 2)])
    decoder.step([ids[-2], ids[-3]])
    logits = decoder.step([ids[-1], ids[-4]])[0]
    return torch.log_softmax(logits, dim=-1)


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


def find_context_tokens(config: Any) -> int | None:
    """Returns the model's window: its positions, or a narrower sliding window."""
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    if getattr(text, "use_sliding_window", True):
        limits.append(getattr(text, "sliding_window", None))
    known = [one for one in limits if one]
    return min(known) if known else None


def _choose_device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"Unknown device {device!r}.", hint="Try 'cpu', 'cuda' or 'cuda:0'."
        ) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("No GPU is visible to torch.", hint="Try the device 'cpu'.")
    return place
