"""The inference model that says whether passages entail a claim, run here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from agenticlu.core.errors import ModelNotFoundError, missing_dependency

NLI_MODEL = "google/t5_xxl_true_nli_mixture"
"""ALCE's model: 11B parameters."""
BATCH_TOKENS = 16384
"""Tokens of a batch at most, padding included; a longer text goes alone."""
REPLY_TOKENS = 10

Pair = tuple[str, str]
"""Premise and hypothesis."""
EntailsMany = Callable[[Sequence[Pair]], list[bool]]
"""Says of each pair whether the premise entails the hypothesis."""


class T5Entails:
    """A T5 that answers `premise: ... hypothesis: ...` with 1 or 0.

    In bfloat16 on an accelerator, in float32 on a CPU.

    Args:
        model: Folder or hub id.
        device: Such as 'cuda:1'; None takes an accelerator where there is one.
        batch_tokens: Tokens of a batch at most, padding included.
        report: Called with a line for people, now and then.

    Raises:
        ModelNotFoundError: There is no such model, or it cannot be loaded.
        MissingDependencyError: torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str = NLI_MODEL,
        *,
        device: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
            transformers: Any = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise missing_dependency(error.name or "transformers", "local") from error
        self.device = self._torch.device(device) if device else self._choose_device()
        cpu = self.device.type == "cpu"
        self.dtype = self._torch.float32 if cpu else self._torch.bfloat16
        self._batch_tokens = batch_tokens
        self._report = report
        transformers.utils.logging.disable_progress_bar()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(model, dtype=self.dtype)
        except (OSError, ValueError, ImportError) as error:
            reason = (str(error).strip().split("\n") or [""])[0] or type(error).__name__
            raise ModelNotFoundError(
                f"The inference model {model!r} cannot be loaded: {reason}",
                hint="Give a folder with a T5 that answers 1 or 0 by --nli FOLDER.",
            ) from error
        self._model = loaded.to(self.device).eval()

    def __call__(self, pairs: Sequence[Pair]) -> list[bool]:
        """Returns of each pair whether the premise entails the hypothesis."""
        texts = [f"premise: {premise} hypothesis: {claim}" for premise, claim in pairs]
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        verdicts = [False] * len(pairs)
        done = 0
        for batch in self._batches([len(one) for one in ids]):
            for index, reply in zip(batch, self._replies([ids[i] for i in batch]), strict=True):
                verdicts[index] = reply == "1"
            done += len(batch)
            self._report(f"{done} of {len(pairs)} claims held against their passages")
        return verdicts

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Returns indices in batches of texts of about one length, longest first."""
        batches: list[list[int]] = []
        widest = 0
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            if not batches or widest * (len(batches[-1]) + 1) > self._batch_tokens:
                batches.append([])
                widest = lengths[index]
            batches[-1].append(index)
        return batches

    def _replies(self, ids: Sequence[Sequence[int]]) -> list[str]:
        inputs = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        with self._torch.inference_mode():
            output = self._model.generate(
                input_ids=inputs["input_ids"].to(self.device),
                attention_mask=inputs["attention_mask"].to(self.device),
                max_new_tokens=REPLY_TOKENS,
                do_sample=False,
            )
        replies: list[str] = self._tokenizer.batch_decode(output, skip_special_tokens=True)
        return replies

    def _choose_device(self) -> Any:
        accelerators = self._torch.accelerator
        if accelerators.is_available():
            return accelerators.current_accelerator()
        return self._torch.device("cpu")
