"""A small server that speaks OpenAI's protocol on loopback, and does as a test tells it."""

from __future__ import annotations

import asyncio
import email
import hashlib
import inspect
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from dear.backends.options import HttpOptions
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Passage, Query

Reply = Callable[[dict[str, Any], int], Any]
"""(request, how many came before it) → a text, a response, or an awaitable of one."""


def right_answer(body: Mapping[str, Any]) -> str:
    """A ranking that depends on the messages alone."""
    text = json.dumps(body["messages"])
    ids = sorted(set(re.findall(r"\[([0-9]+)\] ", text)), key=int)
    random.Random(hashlib.sha256(text.encode()).hexdigest()).shuffle(ids)
    return " > ".join(f"[{i}]" for i in ids)


def completion(text: str | None, *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def failure(status: int, message: str, *, wait: str | None = None, **more: Any) -> Response:
    headers = {} if wait is None else {"Retry-After": wait}
    return JSONResponse({"error": {"message": message, **more}}, status, headers)


def dropped() -> Response:
    """Ten bytes of a hundred, and the connection is closed."""

    def some() -> Iterator[bytes]:
        yield b"0123456789"
        raise ConnectionAbortedError

    return StreamingResponse(some(), headers={"Content-Length": "100"})


class ChatServer:
    """Started and stopped as a context manager; `url` ends in /v1.

    requests: bodies as they came.  headers: the same.  answered: messages → how many 200s.
    most_at_once: requests that were open together.
    """

    def __init__(self, reply: Reply | None = None, *, models: Any = ("m",), port: int = 0) -> None:
        self.reply, self.models = reply, models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.open = self.most_at_once = 0
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        for path in ("/v1/chat/completions", "/openai/deployments/{d}/chat/completions"):
            self.app.post(path)(self._chat)
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=port, log_level="critical", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> ChatServer:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "it does not start"
            time.sleep(0.005)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)

    def options(self, **more: Any) -> HttpOptions:
        """Impatient ones."""
        plain = {"base_url": self.url, "model": "m", "retries": 3, "backoff_s": 0.01}
        return HttpOptions(**(plain | more))

    def _models(self) -> Any:
        if isinstance(self.models, Response):
            return self.models
        return {"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]}

    async def _chat(self, request: Request) -> Any:
        body = await request.json()
        before = len(self.requests)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(str(request.url.path) + "?" + str(request.url.query))
        self.times.append(time.monotonic())
        self.open += 1
        self.most_at_once = max(self.most_at_once, self.open)
        try:
            found = right_answer(body) if self.reply is None else self.reply(body, before)
            if inspect.isawaitable(found):
                found = await found
        finally:
            self.open -= 1
        if isinstance(found, Response):
            return found
        self.answered[json.dumps(body["messages"])] += 1
        return JSONResponse(completion(found) if isinstance(found, str) else found)


async def after(seconds: float, found: Any) -> Any:
    await asyncio.sleep(seconds)
    return found


class BatchServer(ChatServer):
    """Files and batches, too; a batch ends at the first look at it, once it is `ready`.

    created: the batches, in order.  uploads: their files' lines.
    line: changes a line of the output.
    """

    def __init__(self, *, ready: bool = True, **more: Any) -> None:
        super().__init__(**more)
        self.ready = ready
        self.files: dict[str, bytes] = {}
        self.uploads: list[list[bytes]] = []
        self.created: list[dict[str, Any]] = []
        self.line: Callable[[dict[str, Any], int], dict[str, Any]] = lambda row, _n: row
        self.create_reply: Callable[[int], Response | None] = lambda _n: None
        self.status = "completed"
        self.app.post("/v1/files")(self._upload)
        self.app.get("/v1/files/{name}/content")(self._content)
        self.app.post("/v1/batches")(self._create)
        self.app.get("/v1/batches")(self._list)
        self.app.get("/v1/batches/{name}")(self._retrieve)

    async def _upload(self, request: Request) -> Any:
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + await request.body())
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in form.walk()
            if not part.is_multipart()
        }
        assert parts["purpose"] == b"batch"
        name = f"file-{len(self.files)}"
        self.files[name] = parts["file"]  # type: ignore[assignment]
        self.uploads.append(self.files[name].splitlines())
        return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f",
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def _content(self, name: str) -> Response:
        return Response(self.files[name], media_type="application/octet-stream")

    async def _create(self, request: Request) -> Any:
        body = await request.json()
        made = {"id": f"batch-{len(self.created)}", "object": "batch", "created_at": 1, **body}
        self.created.append(made | {"status": "in_progress"})
        return self.create_reply(len(self.created) - 1) or self.created[-1]

    def _list(self) -> Any:
        return {"object": "list", "data": self.created[::-1], "has_more": False}

    def _retrieve(self, name: str) -> Any:
        batch = next(b for b in self.created if b["id"] == name)
        if self.ready and batch["status"] == "in_progress":
            self._finish(batch)
        return batch

    def _finish(self, batch: dict[str, Any]) -> None:
        batch["status"] = self.status
        if self.status == "failed":
            batch["errors"] = {"object": "list", "data": [{"message": "too many tokens"}]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        out, bad = [], []
        # a provider answers in any order
        for n, row in enumerate(rows[::-1]):
            assert (row["method"], row["url"]) == ("POST", batch["endpoint"])
            text = right_answer(row["body"])
            response = {"status_code": 200, "body": completion(text)}
            line = {"custom_id": row["custom_id"], "response": response, "error": None}
            line = self.line(line, n)
            fine = (line["response"] or {}).get("status_code") == 200
            (out if fine else bad).append(json.dumps(line))
        for key, lines in (("output_file_id", out), ("error_file_id", bad)):
            if lines:
                batch[key] = f"{batch['id']}-{key}"
                self.files[batch[key]] = "\n".join(lines).encode()


def window(name: str, count: int = 3) -> WindowPrompt:
    """A prompt of its own for each name."""
    passages = [Passage(id=f"{name}-{i}", text=f"{name} says {i}") for i in range(count)]
    query = Query(id=name, text=f"what does {name} say?")
    return LISTWISE_PROMPTS["rankvicuna"].render(query, passages)


def as_body(prompt: WindowPrompt) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in prompt.messages]}
