"""Any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dear.backends.backend import Completion, OnAnswer
from dear.backends.options import HttpOptions, Pace
from dear.backends.wire import (
    Fault,
    ServerBackend,
    async_client,
    estimated_tokens,
    fault_of,
    in_a_loop,
    parsed,
    read_answer,
    request_body,
)
from dear.errors import BackendError
from dear.prompts.listwise import WindowPrompt

if TYPE_CHECKING:
    import openai

SILENT_PROMPTS = 2
"""So many in a row that spent all their retries: the server is gone. One may be its own fault."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """One call of `generate`.

    last_answer: when the server last answered anything.  silent: prompts that have spent all
        their retries since then.  stopped: it will answer no more.
    """

    prompts: Sequence[WindowPrompt]
    answers: dict[int, Completion] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    last_answer: float = float("-inf")
    silent: int = 0
    stopped: bool = False


class HttpBackend(ServerBackend):
    """Prompts to completions, several requests at a time, each repeated until it is answered.

    Prompts that follow a hopeless one (no such model, a wrong key, a server that answered nothing
    while SILENT_PROMPTS spent all their retries) are not asked. What a server refuses to be told
    (temperature, seed) is left out from then on.
    """

    def __init__(self, options: HttpOptions) -> None:
        super().__init__(options)
        self._refused: set[str] = set()
        self._pace = Pace(options.requests_per_minute, options.tokens_per_minute)

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """A completion for each prompt, in order; an answer may be empty.

        BackendError: some have none; names the first, and how many have one.
        """
        job = _Job(prompts)
        in_a_loop(self._work_through(job, on_answer))
        if len(job.answers) < len(prompts):
            first = job.faults[min(job.faults)]
            raise BackendError(
                f"{self.name}: {first.reason}; {len(job.answers)} of {len(prompts)} prompts "
                "are answered"
            )
        return [job.answers[i] for i in range(len(prompts))]

    async def _work_through(self, job: _Job, on_answer: OnAnswer | None) -> None:
        todo = iter(range(len(job.prompts)))

        async def work() -> None:
            for i in todo:
                if job.stopped:
                    return
                found = await self._ask(client, job, i)
                if isinstance(found, Fault):
                    job.faults[i] = found
                    continue
                job.answers[i] = found
                if on_answer is not None:
                    on_answer(i, found)

        async with async_client(self.options) as client:
            count = min(self.options.concurrency, len(job.prompts))
            tasks = [asyncio.ensure_future(work()) for _ in range(count)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: openai.AsyncOpenAI, job: _Job, i: int) -> Completion | Fault:
        options, prompt, attempt = self.options, job.prompts[i], 0
        began = time.monotonic()
        while True:
            body = request_body(options, prompt, self._refused)
            found = await self._once(client, prompt, body)
            if isinstance(found, Completion) or found.there:
                job.last_answer, job.silent = time.monotonic(), 0
            if isinstance(found, Completion):
                return found
            if found.refused in body:
                logger.info("%s: no %s from now on: %s", self.name, found.refused, found.reason)
                self._refused.add(found.refused)
                continue
            if not found.retry or attempt >= options.retries:
                job.silent += found.retry and job.last_answer < began
                job.stopped |= found.hopeless or job.silent >= SILENT_PROMPTS
                return found
            if found.wait_s is not None:
                self._pace.hold(found.wait_s)
            wait = options.pause_s(attempt, found.wait_s, str(i))
            attempt += 1
            logger.info("%s: %s; attempt %d in %.1f s", self.name, found.reason, attempt + 1, wait)
            await asyncio.sleep(wait)

    async def _once(
        self, client: openai.AsyncOpenAI, prompt: WindowPrompt, body: Mapping[str, Any]
    ) -> Completion | Fault:
        """One request, when its turn has come."""
        expected = estimated_tokens(prompt, self.options)
        await asyncio.sleep(self._pace.reserve(expected))
        rest = {k: v for k, v in body.items() if k not in ("model", "messages")}
        try:
            async with asyncio.timeout(self.options.timeout_s):
                answer = await client.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=rest
                )
            completion = read_answer(parsed(answer.content))
        except Exception as error:
            return fault_of(error, self.options)
        if completion.prompt_tokens is not None and completion.completion_tokens is not None:
            self._pace.settle(expected, completion.prompt_tokens + completion.completion_tokens)
        return completion
