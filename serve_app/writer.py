"""Adapters on one base behind a dynamic batch: replies are written side by side and heard token by token."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from ray import serve

from consilience.values.saved import SavedAdapters
from consilience.values.streaming import StreamingAgents, Turn, open_streaming
from serve_app.config import Batching, Engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Writer(Protocol):
    """What writes replies."""

    @property
    def tokeniser(self) -> "PreTrainedTokenizerBase": ...

    @property
    def window(self) -> int | None:
        """Most tokens of prompt and reply; None = no limit."""
        ...

    def write(self, turn: Turn) -> AsyncGenerator[str, None]:
        """The reply, piece by piece. Closing it gives the reply up."""
        ...

    def reconfigure(self, batching: Batching) -> None: ...


def open_writer(engine: Engine, *saved: SavedAdapters) -> Writer:
    """All adapters of one or more run folders on their common base.

    Raises:
        UserError: see `agents.open_agents`.
    """
    if engine == "vllm" or (engine == "auto" and find_spec("vllm") is not None and torch.cuda.is_available()):
        from serve_app.vllm_writer import open_vllm_writer

        return open_vllm_writer(*saved)
    return TransformersWriter(open_streaming(*saved))


class TransformersWriter:
    """Batches are written one after the other; who comes while one is being written is in the next."""

    def __init__(self, agents: StreamingAgents) -> None:
        torch.seed()
        self._agents = agents
        self.tokeniser, self.window = agents.model.tokeniser, agents.model.window
        batching = Batching()
        batch: Any = serve.batch(  # whose type knows no generators
            max_batch_size=batching.max_batch_size, batch_wait_timeout_s=batching.batch_wait_timeout_s
        )
        self._batch = batch(self._write)

    def reconfigure(self, batching: Batching) -> None:
        """Take other batch sizes from the next batch on."""
        self._batch.set_max_batch_size(batching.max_batch_size)
        self._batch.set_batch_wait_timeout_s(batching.batch_wait_timeout_s)

    async def write(self, turn: Turn) -> AsyncGenerator[str, None]:
        """The reply, piece by piece. Closing it gives the reply up."""
        try:
            async with aclosing(self._batch(turn)) as pieces:
                async for piece in pieces:
                    if piece:
                        yield piece
        finally:
            turn.given_up = True

    async def _write(self, turns: Sequence[Turn]) -> AsyncGenerator[list[Any], None]:
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[list[str | None] | None]()

        def heard(pieces: list[str | None]) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, pieces)

        def work() -> None:
            try:
                self._agents.stream(turns, heard)
            finally:
                loop.call_soon_threadsafe(steps.put_nowait, None)

        writing = loop.run_in_executor(None, work)
        while (pieces := await steps.get()) is not None:
            yield [StopAsyncIteration if piece is None else piece for piece in pieces]
        await writing
