"""The model that answers in the room, and those that could: named, bundled, or found on this host.

No address is asked that nobody named, but for the usual ones of servers on this machine, and these
only when a person says so. The key of a server that was named at the start goes to no other.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from agenticlu.core.errors import missing_dependency
from agenticlu.core.loops import LoopThread
from agenticlu.core.secrets import public_address
from agenticlu.dialogue.run import ROUND_TOKENS, PieceIndex, ShownDocument, control_tokens
from agenticlu.dialogue.stopping import StopRule, choose_rule
from agenticlu.documents import DEFAULT_PIECE_TOKENS, split
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS, Tokenizer
from agenticlu.engines import BUNDLED_NAME, Engine, ModelChoice, check_base_url, read_window
from agenticlu.room.opened import Counted, OpenDocument
from agenticlu.room.refusals import RoomError

LOCAL_PORTS = (11434, 1234, 8080, 8000)
"""Of Ollama, LM Studio, llama.cpp and vLLM."""
LOOK_S = 2.0
"""What a server on this machine may take to say its models."""
NO_KEY = "AGENTICLU_NO_KEY"
"""Variable that holds no key: what servers are sent that were not named at the start."""
HERE = "in this process"
UNNAMED = "the server's model"


@dataclass(eq=False)
class RoomModel:
    """A model that may answer; loaded when it is first asked."""

    name: str
    where: str
    """`HERE`, or the server's address."""
    load: Callable[[], Engine]
    load_tokenizer: Callable[[], Tokenizer]
    piece_tokens: int
    window: int | None = None
    """None where it is not known yet."""
    bundled: bool = False
    rule: StopRule | None = None
    """Says when a further round is worth it."""
    engine: Engine | None = None
    tokenizer: Tokenizer | None = None
    users: int = 0
    """Answers under way."""
    is_retired: bool = False
    """Whether another was chosen: it is closed with its last answer."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def info(self) -> dict[str, Any]:
        """Returns what the page is told of it."""
        return {
            "name": self.name,
            "where": self.where,
            "window": self.window,
            "bundled": self.bundled,
        }

    def count(self, document: OpenDocument) -> Counted:
        """Cuts a document into pieces and counts it; called in a thread.

        Raises:
            AgenticluError: The tokenizer cannot be loaded.
        """
        if self.tokenizer is None:
            self.tokenizer = self.load_tokenizer()
        read = document.require_text()
        pieces = split(read, self.tokenizer, self.piece_tokens)
        shown = ShownDocument(read, pieces, control_tokens(self.tokenizer))
        tokens = sum(piece.num_tokens for piece in pieces)
        marks = self.tokenizer.count("<para 100>\n\n</para 100>\n\n") * len(pieces)
        needed = tokens + marks + ROUND_TOKENS + 2 * MAX_TEMPLATE_TOKENS
        fits = None if self.window is None else needed <= self.window
        return Counted(shown, PieceIndex(shown), tokens, fits)


def model_of(
    choice: ModelChoice,
    *,
    tokenizer: str | None = None,
    piece_tokens: int | None = None,
    stop_rule: str | None = None,
) -> RoomModel:
    """Makes a model of a choice; loads nothing.

    Raises:
        ModelNotFoundError: There is no such model.
        UsageError: The server's address is malformed.
        ConfigError: The stop rule cannot be read.
    """
    choice.check()
    hint = choice.hint("piece_tokens")
    window = choice.window_tokens
    if window is None and choice.folder is not None and not choice.base_url:
        window = read_window(choice.folder)
    address = ", ".join(map(public_address, choice.base_url))
    return RoomModel(
        name=BUNDLED_NAME if choice.bundled else choice.model or UNNAMED,
        where=address or HERE,
        load=choice.load,
        load_tokenizer=lambda: choice.tokenizer(tokenizer),
        piece_tokens=piece_tokens or hint or DEFAULT_PIECE_TOKENS,
        window=window,
        bundled=choice.bundled,
        rule=choose_rule(stop_rule, choice.folder),
    )


def can_run_here() -> bool:
    """Whether models run in this process: PyTorch and transformers are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


class Models:
    """The model in use, and which others there are.

    Args:
        choice: As it was named at the start.
        tokenizer: Of it, where it is not its own.
        piece_tokens: Most tokens of a piece; None for what suits the model.
        loop: In which engines live.
        given: Instead of a choice: a model that is loaded otherwise.
        stop_rule: File of a rule, instead of a model's own.
    """

    def __init__(
        self,
        choice: ModelChoice,
        tokenizer: str | None,
        piece_tokens: int | None,
        loop: LoopThread,
        given: RoomModel | None = None,
        stop_rule: str | None = None,
    ) -> None:
        self._stop_rule = stop_rule
        self._choice, self._piece_tokens, self._loop = choice, piece_tokens, loop
        first = given
        if first is None and (not choice.bundled or can_run_here()):
            first = model_of(
                choice, tokenizer=tokenizer, piece_tokens=piece_tokens, stop_rule=stop_rule
            )
        self._first = first
        self.current = first
        self.found: list[dict[str, Any]] = []
        self.looked = False
        self._old: list[RoomModel] = []

    def list(self) -> dict[str, Any]:
        """Returns the model in use and all that are known."""
        listed = [model.info() for model in (self._first, self.current) if model is not None]
        if can_run_here():
            listed.append(self._bundled_info())
        listed += self.found
        unlike = {(_host(one["where"]), one["name"]): one for one in reversed(listed)}
        current = None if self.current is None else self.current.info()
        return {"current": current, "found": list(reversed(unlike.values()))}

    def _bundled_info(self) -> dict[str, Any]:
        return model_of(ModelChoice()).info()

    def require(self) -> RoomModel:
        """Returns the model in use.

        Raises:
            RoomError: There is none.
        """
        if self.current is None:
            raise RoomError(
                "No model was chosen, and there is none to answer.",
                status=409,
                hint="Choose a server above, or start with one: agenticlu read FILE --base-url "
                "http://localhost:11434/v1 --model NAME",
            )
        return self.current

    async def engine(self, model: RoomModel) -> Engine:
        """Returns a model's engine, loaded if need be; called in the engines' loop.

        Raises:
            AgenticluError: It cannot be loaded.
        """
        async with model.turn:
            if model.engine is None:
                model.engine = await asyncio.to_thread(model.load)
        return model.engine

    async def meet(self, model: RoomModel) -> bool:
        """Asks a server for its window, where it is not known; called in the engines' loop.

        Returns:
            Whether it is known now, and was not.

        Raises:
            EngineError: There is no such server, or it has no such model.
        """
        if model.window is not None or model.where == HERE:
            return False
        engine = await self.engine(model)
        model.window = (await engine.capabilities()).context_tokens
        if model.name == UNNAMED:
            model.name = engine.name
        return model.window is not None

    # Choosing

    def use(self, model: RoomModel) -> None:
        """Answers by another model from now on; what is under way ends with the old one."""
        if model is not self.current and self.current is not None:
            self.current.is_retired = True
            self._old.append(self.current)
        model.is_retired = False
        self.current = model
        self._close_old()

    def find(self, name: str, base_url: str | None) -> RoomModel:
        """Returns the model of a name; called in a thread.

        Args:
            name: A name that the server knows, or a folder, a GGUF file or a hub id.
            base_url: Of the server; None: in this process.

        Raises:
            ModelNotFoundError: There is no such model.
            UsageError: The address is malformed.
            MissingDependencyError: It would run in this process, and PyTorch is missing.
        """
        known = [one for one in (self.current, self._first, *self._old) if one is not None]
        # As the page was told of it: an address with a key in it is not told whole.
        where = base_url or HERE
        for one in known:
            if (one.name, one.where) == (name, where):
                return one
        if not base_url and not can_run_here():
            raise missing_dependency("torch", "local")
        model = None if name == BUNDLED_NAME and not base_url else name
        urls = (check_base_url(base_url),) if base_url else ()
        named = set(map(check_base_url, self._choice.base_url))
        # Its key and its window are the named server's own.
        choice = replace(self._choice, model=model, base_url=urls, window_tokens=None)
        if not set(urls) <= named:
            choice = replace(choice, api_key_env=NO_KEY)
        return model_of(choice, piece_tokens=self._piece_tokens, stop_rule=self._stop_rule)

    def begin(self) -> RoomModel:
        """Returns the model in use for one answer; `end` must follow.

        Raises:
            RoomError: There is none.
        """
        model = self.require()
        model.users += 1
        return model

    def end(self, model: RoomModel) -> None:
        """Ends an answer."""
        model.users -= 1
        self._close_old()

    def _close_old(self) -> None:
        for model in self._old[:]:
            if not model.is_retired:
                self._old.remove(model)
            elif not model.users:
                self._old.remove(model)
                engine, model.engine = model.engine, None
                if engine is not None:
                    self._loop.submit(engine.close())

    # Looking

    async def look(self) -> dict[str, Any]:
        """Asks the usual ports of this machine for models."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=LOOK_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as client:
            found = await asyncio.gather(*(_ask_port(client, port) for port in LOCAL_PORTS))
        self.found = [model for models in found for model in models]
        self.looked = True
        return self.list()

    async def close(self) -> None:
        """Closes all engines; called in their loop."""
        for model in filter(None, {self.current, self._first, *self._old}):
            engine, model.engine = model.engine, None
            if engine is not None:
                await engine.close()


async def _ask_port(client: Any, port: int) -> list[dict[str, Any]]:
    """Returns the models of a server at a port of this machine; none where there is no server."""
    import aiohttp

    address = f"http://localhost:{port}/v1"
    try:
        async with client.get(f"{address}/models", allow_redirects=False) as reply:
            listed = (await reply.json(content_type=None))["data"]
        return [
            {
                "name": str(one["id"]),
                "where": address,
                "window": one.get("max_model_len") if _is_count(one) else None,
                "bundled": False,
            }
            for one in listed
            # Our own server's dialogue: it would be a dialogue about a dialogue.
            if (one["id"], one.get("owned_by")) != ("agenticlu", "agenticlu")
        ]
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # no server, or none of this kind


def _host(address: str) -> str:
    return address.replace("//127.0.0.1:", "//localhost:")


def _is_count(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("max_model_len"), int)
