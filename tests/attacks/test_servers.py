"""What servers answer to harm who asks: bombs, streams, redirects, and JSON that is odd."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ceilings import Ended, attack_python

MEBIBYTES, SECONDS = 600, 30
"""A process that asks a server takes 80 MiB and 0.8 s."""

ASK = """
import sys, time
from dear.backends.http import HttpBackend
from dear.backends.options import HttpOptions
from dear.errors import BackendError
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.records import Passage, Query

def window(name):
    passages = [Passage(id=f"{name}-{i}", text=f"{name} says {i}") for i in range(3)]
    return LISTWISE_PROMPTS["rankvicuna"].render(Query(id=name, text=f"{name}?"), passages)

def ask(url, count=4, **more):
    plain = dict(base_url=url + "/v1", model="m", retries=0, backoff_s=0.01, concurrency=1)
    options = HttpOptions(**(plain | more))
    seen = {}
    started = time.monotonic()
    try:
        HttpBackend(options).generate([window(f"q{i}") for i in range(count)],
                                      lambda i, c: seen.update({i: c}))
    except BackendError as error:
        print("error:", error)
    print("seconds:", round(time.monotonic() - started, 1))
    print("seen:", sorted(seen))
    return seen
"""
RIGHT = {
    "choices": [
        {"finish_reason": "stop", "message": {"role": "assistant", "content": "[1] > [2]"}}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], Any]


class Server(ThreadingHTTPServer):
    """`reply(handler, body)` writes its own answer, or returns what is sent as JSON."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        outer = self
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.path, dict(self.headers), data))
                with suppress(OSError, ValueError):
                    try:
                        body = json.loads(data)
                    except ValueError:
                        body = {}
                    found = reply(self, body)
                    if found is not None:
                        send(self, found if isinstance(found, bytes) else json.dumps(found))

            do_GET = do_POST  # noqa: N815

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(reply)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def send(to: BaseHTTPRequestHandler, body: str | bytes, status: int = 200, **headers: str) -> None:
    data = body.encode() if isinstance(body, str) else body
    to.send_response(status)
    given = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    for name, value in (given | {k.replace("_", "-"): v for k, v in headers.items()}).items():
        to.send_header(name, value)
    to.end_headers()
    to.wfile.write(data)


def about(body: dict[str, Any], name: str) -> bool:
    return f"{name} says" in json.dumps(body)


def asks(
    code: str, *words: object, seconds: float = SECONDS, mebibytes: float = MEBIBYTES
) -> Ended:
    ended = attack_python(ASK + code, *words, seconds=seconds, mebibytes=mebibytes)
    assert ended.status == 0, ended.err[-2000:]
    assert "Traceback" not in ended.err
    return ended


LONG_S = 20.0
"""By the clock, for what has a second of time; what is not bounded takes 30 s, 60 s or hours."""


def seconds_of(ended: Ended) -> float:
    return float(ended.out.split("seconds: ")[1].split()[0])


# Redirects


@pytest.mark.parametrize(
    ("status", "place"),
    [
        (301, "{other}/v1/chat/completions"),
        (302, "//{host}/v1"),
        (307, "{other}/v1/chat/completions"),
        (308, "/elsewhere"),
    ],
)
def test_a_redirect_is_not_followed(
    status: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-secret-1")
    with serving(lambda _h, _b: RIGHT) as other:
        where = place.format(other=other.url, host=other.url.removeprefix("http://"))
        with serving(lambda h, _b: send(h, "", status, Location=where)) as server:
            more = "api_key_env='THE_KEY', headers_env={'x-gate': 'THE_KEY'}, retries=3"
            ended = asks(f"ask(sys.argv[1], {more})", server.url)
            # all four prompts would be pointed there
            assert len(server.asked) == 1
        assert other.asked == []
    assert f"{status}, it points to {where!r}" in ended.out
    assert "base_url" in ended.out
    assert "sk-secret" not in ended.out


def test_no_request_of_a_batch_or_for_models_follows_a_redirect() -> None:
    code = """
from dear.backends import open_backend
from dear.backends.batch import BatchBackend
options = HttpOptions(base_url=sys.argv[1] + "/v1", model="m", retries=0)
for call in (lambda: open_backend(sys.argv[1] + "/v1"),
             lambda: BatchBackend(options).generate([window("a")]),
             lambda: list(BatchBackend(options).collect("b", ["a"])),
             lambda: BatchBackend(options).find("n")):
    try:
        call()
    except BackendError as error:
        print(error)
"""
    with serving(lambda _h, _b: RIGHT) as other:
        with serving(lambda h, _b: send(h, "", 307, Location=other.url)) as server:
            ended = asks(code, server.url)
        assert other.asked == []
    assert ended.out.count("307, it points to") == 4


@pytest.mark.parametrize("place", ["http://[", "\x1b]0;x\x07", "http://h/" + "a" * 60_000])
def test_where_a_redirect_points_may_be_anything(place: str) -> None:
    with serving(lambda h, _b: send(h, "", 302, Location=place)) as server:
        ended = asks("ask(sys.argv[1])", server.url)
    assert "302, it points to" in ended.out
    assert len(ended.out) < 1000
    assert "\x1b" not in ended.out


# Answers without end


@functools.cache
def bomb(kind: str) -> bytes:
    """Half a gibibyte of spaces, in half a mebibyte or less."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 15 if kind == "deflate" else 31)
    data = b"".join([*(packer.compress(b" " * (1 << 20)) for _ in range(512)), packer.flush()])
    return gzip.compress(data) if kind == "gzip, gzip" else data


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("kind", ["gzip", "deflate", "gzip, gzip"])
def test_what_is_packed_is_unpacked_as_far_as_an_answer_may_go(kind: str, status: int) -> None:
    data = bomb(kind)

    def reply(to: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        if not about(body, "q1"):
            return RIGHT
        return send(to, data, status, Content_Encoding=kind)

    with serving(reply) as server:
        ended = asks("ask(sys.argv[1])", server.url, seconds=20, mebibytes=300)
    assert "seen: [0, 2, 3]" in ended.out
    assert ("more than 8,388,608 bytes" if status == 200 else "500 ") in ended.out


@pytest.mark.parametrize("name", ["br", "zstd"])
def test_other_codings_are_bounded_where_the_client_knows_them(name: str) -> None:
    try:
        if name == "br":
            data = pytest.importorskip("brotli").compress(b" " * (256 << 20))
        else:
            data = pytest.importorskip("backports.zstd").compress(b" " * (256 << 20))
    except ImportError:
        pytest.skip(f"no decoder of {name}: the client asks for no such coding")
    with serving(lambda h, _b: send(h, data, Content_Encoding=name)) as server:
        ended = asks("ask(sys.argv[1])", server.url, mebibytes=300)
    assert "more than 8,388,608 bytes" in ended.out


@pytest.mark.parametrize(
    ("charset", "status"),
    [("zlib_codec", 200), ("zlib_codec", 400), ("idna", 200), ("idna", 400), ("nonsense", 400)],
)
def test_a_charset_that_expands_or_is_slow_is_not_used(charset: str, status: int) -> None:
    data = bomb("deflate") if charset == "zlib_codec" else b"a." * (2 << 20)
    more = {"Content_Type": f"application/json; charset={charset}"}
    with serving(lambda h, _b: send(h, data, status, **more)) as server:
        ended = asks("ask(sys.argv[1], count=1)", server.url, seconds=10, mebibytes=300)
    assert "error: " in ended.out
    assert len(ended.out) < 1500


def endless(
    to: BaseHTTPRequestHandler, piece: bytes, pause: float = 0.0, status: int = 200
) -> None:
    to.send_response(status)
    to.send_header("Content-Type", "application/json")
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        to.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        to.wfile.flush()
        time.sleep(pause)


@pytest.mark.parametrize("status", [200, 500])
def test_a_stream_without_end_is_read_as_far_as_an_answer_may_go(status: int) -> None:
    with serving(lambda h, _b: endless(h, b" " * 65536, status=status)) as server:
        ended = asks("ask(sys.argv[1], count=2)", server.url, mebibytes=300)
    assert ("more than 8,388,608 bytes" if status == 200 else "500 ") in ended.out


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_drips_ends_with_its_time(status: int) -> None:
    with serving(lambda h, _b: endless(h, b" ", pause=0.05, status=status)) as server:
        ended = asks("ask(sys.argv[1], count=1, timeout_s=1.0)", server.url)
    assert "no answer within 1 s" in ended.out
    assert seconds_of(ended) < LONG_S


def raw(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Connections that speak no HTTP; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def work() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                answer(connection)

        threading.Thread(target=work, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def repeated(head: bytes, piece: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
STREAMS: dict[str, Callable[[socket.socket], None]] = {
    "headers without end": repeated(OK, b"X-A: " + b"a" * 1000 + b"\r\n"),
    "one header without end": repeated(OK + b"X-A: ", b"a" * 65536),
    "headers that drip": repeated(OK + b"X-A: ", b"a", 0.05),
    "a status without end": repeated(b"HTTP/1.1 200 ", b"a" * 65536),
    "continues without end": repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "early hints that drip": repeated(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 0.05),
    "chunks of one byte": repeated(CHUNKED, b"1\r\n \r\n" * 10000),
    "trailers without end": repeated(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n" * 1000
    ),
    "a chunk's size without end": repeated(CHUNKED, b"0" * 65536),
    "more than was said": repeated(OK + b"Content-Length: 2\r\n\r\n{}", b" " * 65536),
    "less than was said": lambda c: c.sendall(OK + b"Content-Length: 999999999999\r\n\r\n{}"),
    "silence": repeated(b"", b"", 0.05),
    "no HTTP": lambda c: c.sendall(b"\x1b[2JSSH-2.0-x\r\n\r\n"),
    "a wild length": lambda c: c.sendall(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}"),
    "an upgrade": repeated(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"a" * 65536),
    "status 999": lambda c: c.sendall(b"HTTP/1.1 999 \x1b[2J\r\nContent-Length: 200\r\n\r\n"
                                      + b"\x1b[31m" * 40),
}  # fmt: skip


def test_what_comes_instead_of_an_answer_is_one_line_in_time() -> None:
    """All in one process, one after the other, each with a second of time."""
    with_all = "for url in sys.argv[1:]:\n    ask(url, count=1, timeout_s=1.0)\n"
    opened = {name: contextmanager(raw)(answer) for name, answer in STREAMS.items()}
    try:
        urls = [one.__enter__() for one in opened.values()]
        ended = asks(with_all, *urls, seconds=60, mebibytes=400)
    finally:
        for one in opened.values():
            one.__exit__(None, None, None)
    lines = ended.out.splitlines()
    errors = dict(zip(STREAMS, [line for line in lines if line.startswith("error: ")], strict=True))
    taken = [float(line.split()[1]) for line in lines if line.startswith("seconds: ")]
    assert max(taken) < LONG_S, dict(zip(STREAMS, taken, strict=True))
    for name, line in errors.items():
        assert len(line) < 700, name
        assert line.isprintable(), name
    assert "999" in errors["status 999"]


def large(to: BaseHTTPRequestHandler) -> None:
    """An error of 200 MB."""
    to.send_response(400)
    to.send_header("Content-Length", str(200 << 20))
    to.end_headers()
    for _ in range(200):
        to.wfile.write(b"x" * (1 << 20))


def test_the_text_of_a_large_error_is_not_read_whole() -> None:
    with serving(lambda h, _b: large(h)) as server:
        ended = asks("ask(sys.argv[1], count=1)", server.url, mebibytes=300)
    assert "400 Bad Request: 'xxx" in ended.out
    assert len(ended.out) < 700


@pytest.mark.parametrize("text", ["x" * (1 << 20), "\x1b]52;c;aGk=\x07\x1b[2J\r\nroot\x00" * 50])
def test_the_text_of_an_error_is_cut_and_harmless(text: str) -> None:
    for body in (text, json.dumps({"error": {"message": text}})):
        with serving(lambda h, _b, body=body: send(h, body, 400)) as server:  # type: ignore[misc]
            ended = asks("ask(sys.argv[1], count=1)", server.url, mebibytes=300)
        line = ended.out.splitlines()[0]
        assert "400 Bad Request: " in line
        assert len(line) < 700
        assert line.isprintable()


# One odd answer among good ones


def answer(**changes: Any) -> dict[str, Any]:
    return RIGHT | changes


def message(**changes: Any) -> dict[str, Any]:
    return answer(choices=[{"finish_reason": "stop", "message": {"content": "[1]", **changes}}])


def deep(brackets: str = "[]", levels: int = 100_000) -> bytes:
    return (brackets[0] * levels + brackets[1] * levels).encode()


NUMBERS = ["9" * 400, "9" * 5000, "-5", "1e999", "NaN", "-Infinity", '"7"', "true", "[]", "{}"]
ODD: dict[str, bytes | dict[str, Any] | Any] = {
    "deep": deep(),
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep inside": b'{"choices": ' + deep(levels=900) + b"}",
    "deep error": b'{"error": ' + deep(levels=900) + b"}",
    "no choices": answer(choices=[]),
    "null choices": answer(choices=None),
    "choices are text": answer(choices="abc"),
    "choices are an object": answer(choices={"0": 1}),
    "choice is a list": answer(choices=[[1]]),
    "message is text": answer(choices=[{"message": "x"}]),
    "null message": answer(choices=[{"message": None}]),
    "no JSON": b"nonsense \xff\xfe \x1b[2J",
    "nothing": b"",
    "a number": b"5",
    "a list": b"[]",
    "a huge number": b"9" * 10_000,
    "UTF-16": json.dumps(RIGHT).encode("utf-16"),
}
FINE: dict[str, Any] = {
    **{
        f"usage {number[:9]} ({len(number)})": json.dumps(RIGHT)
        .replace(": 10", f": {number}")
        .replace(": 5}", f": {number}}}")
        .encode()
        for number in NUMBERS
        if len(number) < 4300
    },
    "usage is a list": answer(usage=[1]),
    "usage is text": answer(usage="x"),
    "null content": message(content=None),
    "content is a number": message(content=5),
    "content is parts": message(content=[{"text": {"a": 1}}, {"text": None}, 5, [], {"text": "x"}]),
    "content is deep": b'{"choices": [{"message": {"content": [{"text": '
    + deep(levels=500)
    + b"}]}}]}",
    "half a surrogate": message(content="\ud800 [1]", reasoning="\udfff"),
    "no UTF-8": b'{"choices": [{"message": {"content": "[1] \xff\xfe > [2]"}}]}',
    "controls": message(content="\x1b[2J\x00[1]"),
    "finish is an object": answer(
        choices=[{"finish_reason": {"a": []}, "message": {"content": "x"}}]
    ),
    "finish is long": answer(
        choices=[{"finish_reason": "\x1b" * 10**6, "message": {"content": "x"}}]
    ),
    "reasoning is a list": message(reasoning=[1], reasoning_content={"a": 1}),
    "twice the same key": b'{"choices": [], "choices": [{"message": {"content": "x"}}]}',
    "a mebibyte": message(content="[1] > " * 170_000),
}


@pytest.mark.parametrize(("odd", "kept"), [(ODD, False), (FINE, True)], ids=["odd", "fine"])
@pytest.mark.parametrize("batch", [False, True], ids=["live", "batch"])
def test_one_odd_answer_leaves_the_others(
    odd: dict[str, Any], kept: bool, batch: bool, tmp_path: Path
) -> None:
    """Every second prompt gets an odd answer; the ledger is read again afterwards."""
    names = list(odd)

    def chosen(text: str) -> Any:
        number = next(i for i in range(2 * len(names)) if f"q{i} says" in text)
        return odd[names[number // 2]] if number % 2 else RIGHT

    code = f"""
from dear.backends.batch import BatchBackend
from dear.backends.ledger import Ledger
options = HttpOptions(base_url=sys.argv[1] + "/v1", model="m", retries=0, concurrency=3,
    tokens_per_minute=1e9, batch={batch}, batch_poll_s=0.01, price_in=1.0, price_out=2.0)
backend = BatchBackend(options) if {batch} else HttpBackend(options)
prompts = [window(f"q{{i}}") for i in range({2 * len(names)})]
for turn in range(2):
    seen = {{}}
    with Ledger(backend, sys.argv[2]) as ledger:
        try:
            ledger.generate(prompts, lambda i, c: seen.update({{i: c}}))
        except BackendError as error:
            print("error:", error)
        usage = ledger.usage()
    for c in seen.values():
        (c.text + c.finish + c.reasoning).encode("utf-8")
        assert len(c.finish) <= 40 and c.finish.isprintable(), c.finish
        for count in (c.prompt_tokens, c.completion_tokens):
            assert count is None or 0 <= count < 2**31, count
    assert 0 <= usage.cost < 1e6
    print("seen:", sorted(seen))
"""
    files: dict[str, bytes] = {}

    def batches(to: BaseHTTPRequestHandler, _body: dict[str, Any]) -> Any:
        path, _, data = server.asked[-1]
        if path.endswith("/files"):
            part = data.split(b"\r\n\r\n", 2)
            lines = [line for line in b"\r\n".join(part).split(b"\n") if b"custom_id" in line]
            files["out"] = b"\n".join(map(line_of, lines))
            return {"id": "in"}
        if path.endswith("/content"):
            return files["out"]
        return {"id": "b", "status": "completed", "output_file_id": "out"}

    def line_of(line: bytes) -> bytes:
        row = json.loads(line[line.index(b"{") :])
        found = chosen(json.dumps(row["body"]))
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        head = json.dumps({"custom_id": row["custom_id"]})[:-1].encode()
        return head + b', "response": {"status_code": 200, "body": ' + body + b"}}"

    live = lambda _h, body: chosen(json.dumps(body))  # noqa: E731
    with serving(batches if batch else live) as server:
        ended = asks(code, server.url, tmp_path / "ledger.jsonl", seconds=30)
    seen = [json.loads(line[6:]) for line in ended.out.splitlines() if line.startswith("seen: ")]
    good = set(range(0, 2 * len(names), 2))
    # JSON may be one line of a file only where it has no line feed, and UTF-16 has some by chance
    assert len(seen) == 2
    for turn in seen:
        assert good <= set(turn)
        if kept:
            assert len(turn) == 2 * len(names), [
                names[i // 2] for i in set(range(2 * len(names))) - set(turn)
            ]
        else:
            assert set(turn) == good, [names[i // 2] for i in set(turn) - good]
    for line in ended.out.splitlines():
        assert len(line) < 1200
        assert line.isprintable()


def test_a_prompt_that_can_not_be_sent_is_one_of_many() -> None:
    code = """
seen = {}
options = HttpOptions(base_url=sys.argv[1] + "/v1", model="m", concurrency=1)
try:
    prompts = [window(name) for name in ("a", "\\ud800", "\\x00\\x1b", "z" * 10**6, "b")]
    HttpBackend(options).generate(prompts, lambda i, c: seen.update({i: c}))
except BackendError as error:
    print(error)
print(sorted(seen))
"""
    with serving(lambda _h, _b: RIGHT) as server:
        ended = asks(code, server.url)
    assert "the prompt can not be sent: it holds '\\ud800'" in ended.out
    assert "[0, 2, 3, 4]" in ended.out


def test_a_server_that_lies_about_tokens_stops_nobody() -> None:
    lies = [10**9, -(10**9), 10**18]

    def reply(_h: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        number = next(i for i in range(9) if about(body, f"q{i}"))
        return answer(usage={"prompt_tokens": lies[number % 3], "completion_tokens": 1})

    with serving(reply) as server:
        code = "ask(sys.argv[1], count=6, tokens_per_minute=3e6, max_tokens=100)"
        ended = asks(code, server.url)
    assert "seen: [0, 1, 2, 3, 4, 5]" in ended.out
    assert seconds_of(ended) < LONG_S


WAITS = ["1e400", "inf", "nan", "-5", "9" * 5000, "Thu, 99 Foo 99999 99:99:99", "\x00", "(" * 9000]


def test_how_long_a_server_asks_to_wait_may_be_anything() -> None:
    def reply(to: BaseHTTPRequestHandler, _body: dict[str, Any]) -> Any:
        return send(to, "{}", 429, Retry_After=WAITS[int(to.path.split("/")[1])])

    code = f"for i in range({len(WAITS)}): ask(f'{{sys.argv[1]}}/{{i}}', count=2, retries=1)"
    with serving(reply) as server:
        ended = asks(code, server.url)
    lines = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(WAITS)
    for line in lines:
        assert "429 Too Many Requests" in line or "no connection" in line
        assert len(line) < 700
    taken = [float(line.split()[1]) for line in ended.out.splitlines() if "seconds: " in line]
    assert max(taken) < LONG_S


MODELS: list[bytes | dict[str, Any]] = [
    deep(), b"", b"5", {"data": None}, {"data": [5]}, {"data": [{"id": 5}]}, {"data": [{"id": []}]},
    {"data": [{"id": ""}]}, {"data": [{"id": "\x1b[2J"}]}, {"data": [{"id": "m" * 10**6}]},
    {"data": {"id": "m"}}, {"data": [{"id": f"m{i}" * 40} for i in range(10_000)]},
]  # fmt: skip


def test_a_list_of_models_may_be_anything() -> None:
    code = f"""
from dear.backends import open_backend
from dear.errors import DearError
for i in range({len(MODELS)}):
    try:
        print("opened", open_backend(sys.argv[1] + f"/{{i}}").name)
    except DearError as error:
        print("error:", error)
"""
    with serving(lambda h, _b: MODELS[int(h.path.split("/")[1])]) as server:
        lines = asks(code, server.url).out.splitlines()
    assert len(lines) == len(MODELS)
    for line in lines:
        assert line.startswith("error: ")
        assert len(line) < 2500
        assert line.isprintable()


# Batches

FILE = json.dumps({"custom_id": "{}", "response": {"status_code": 200, "body": RIGHT}})


def line_for(name: str, **changes: Any) -> bytes:
    row = {"custom_id": name, "response": {"status_code": 200, "body": RIGHT}, **changes}
    return json.dumps(row).encode() + b"\n"


LINES = b"".join(
    [
        line_for("k0"),
        b"nonsense\n",
        deep() + b"\n",
        b"\n\r\n  \n",
        b"5\n[]\nnull\n",
        line_for("k0", response={"status_code": 200, "body": message(content="second")}),
        line_for("somebody else's"),
        line_for(5),  # type: ignore[arg-type]
        line_for("k2", response=[1]),
        line_for("k3", response=None, error={"message": {"a": ["\x1b[2J" * 1000]}}),
        line_for("k4", response={"status_code": "\x1b" * 1000, "body": None}),
        b'{"custom_id": "k5", "response": {"status_code": 200, "body": '
        + b" " * (9 << 20)
        + b"1}}\n",
        line_for("k1", response={"status_code": 200, "body": message(content="a\u2028b")}),
    ]
)


def batch_server(**replies: Any) -> Reply:
    """create, retrieve, list, file, content: what is answered."""
    made = {"id": "b", "status": "completed", "output_file_id": "out"}
    plain = {"file": {"id": "in"}, "create": made, "retrieve": made, "list": {"data": []}}
    known = plain | {"content": LINES} | replies

    def reply(to: BaseHTTPRequestHandler, _body: dict[str, Any]) -> Any:
        path = to.path.partition("?")[0]
        if path.endswith("/content"):
            found = known["content"]
        elif path.endswith("/files"):
            found = known["file"]
        elif path.endswith("/batches"):
            found = known["create" if to.command == "POST" else "list"]
        else:
            found = known["retrieve"]
        return found(to) if callable(found) else found

    return reply


COLLECT = """
from dear.backends.batch import BatchBackend
def batch(url, **more):
    plain = dict(base_url=url + "/v1", model="m", retries=0, batch_poll_s=0.01, backoff_s=0.01)
    return BatchBackend(HttpOptions(**(plain | more)))
"""


def test_a_batch_file_of_odd_lines_gives_what_it_has() -> None:
    code = (
        COLLECT
        + """
import json
found = list(batch(sys.argv[1]).collect("b", [f"k{i}" for i in range(7)]))
print(json.dumps([(name, c if isinstance(c, str) else c.text) for name, c in found]))
"""
    )
    with serving(batch_server()) as server:
        ended = asks(code, server.url)
    found = json.loads(ended.out)
    assert [name for name, _ in found] == ["k0", "k2", "k3", "k4", "k1"]
    answers = dict(found)
    assert (answers["k0"], answers["k1"]) == ("[1] > [2]", "a\u2028b")
    for name in ("k2", "k3", "k4"):
        assert len(answers[name]) < 400
        assert answers[name].isprintable()


def test_nothing_that_a_batch_server_says_ends_in_more_than_a_line() -> None:
    odd: list[dict[str, Any]] = []
    for value in (
        deep(),
        b"",
        b"5",
        {"id": 5},
        {"id": "../../x"},
        {"id": "http://h/x"},
        {"id": []},
    ):
        odd += [{"file": value}, {"create": value}]
    for values in (
        {"status": None}, {"status": 5}, {"status": "\x1b[2J" * 1000}, {"status": "x" * 10**6},
        {"status": "completed", "output_file_id": {"a": 1}},
        {"status": "completed", "output_file_id": "../" * 10},
        {"status": "completed"}, {"status": "failed", "errors": "x"},
        {"status": "failed", "errors": {"data": [{"message": "\x1b[2J" * 10**5}]}},
        {"status": "failed", "errors": {"data": {}}}, {"status": "in_progress"},
    ):  # fmt: skip
        odd.append({"retrieve": values})
    odd.append({"content": lambda h: send(h, b"no", 500)})
    code = (
        COLLECT
        + f"""
for i in range({len(odd)}):
    try:
        batch(sys.argv[1] + f"/{{i}}", batch_timeout_s=0.05).generate([window("a"), window("b")])
        print("answered", i)
    except BackendError as error:
        print("error:", error)
"""
    )

    def reply(to: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        return batch_server(**odd[int(to.path.split("/")[1])])(to, body)

    with serving(reply) as server:
        lines = asks(code, server.url).out.splitlines()
    assert len(lines) == len(odd)
    for line, given in zip(lines, odd, strict=True):
        assert line.startswith("error: "), given
        assert len(line) < 900
        assert line.isprintable()


def test_a_batch_file_and_a_list_of_batches_may_be_without_end() -> None:
    zipped = bomb("gzip")
    code = (
        COLLECT
        + """
for more in (dict(max_file_mib=16.0), dict(download_timeout_s=1.0)):
    try:
        list(batch(sys.argv[1], **more).collect("b", ["k0"]))
    except BackendError as error:
        print(error)
try:
    batch(sys.argv[1], timeout_s=1.0).find("nonce")
except BackendError as error:
    print(error)
"""
    )
    turns = iter(
        [
            lambda h: send(h, zipped, Content_Encoding="gzip"),
            lambda h: endless(h, b" ", pause=0.05),
        ]
    )
    page = {"data": [{"id": "x", "metadata": {"dear": "other"}}], "has_more": True}
    with serving(batch_server(content=lambda h: next(turns)(h), list=page)) as server:
        first, second, third = asks(code, server.url, mebibytes=300).out.splitlines()
    assert "a file of more than 16,777,216 bytes" in first
    assert "no answer within 1 s" in second
    assert "no answer within 1 s" in third


# A ledger that somebody else wrote

HEADER = b'{"format": "dear-ledger/1"}\n'


@pytest.mark.parametrize(
    "line",
    [
        deep(), b'{"batch": "n", "keys": 5}', b'{"batch": "n", "keys": "abc"}', b'{"batch": 5}',
        b'{"batch": "n", "id": "x"}', b'{"key": "k"}', b'{"key": [], "text": 1}', b"9" * 5000,
        b'{"key": "k", "text": "x", "finish": "s", "prompt_tokens": 1.5, "completion_tokens": 1}',
        b'{"key": "k", "text": "x", "finish": "s", "prompt_tokens": "\x1b[2J"}', b"\xff\x00",
    ],
)  # fmt: skip
def test_a_ledger_with_an_odd_line_is_refused_in_one_line(line: bytes, tmp_path: Path) -> None:
    from dear.backends.ledger_file import LedgerFile
    from dear.errors import DataError

    (tmp_path / "l.jsonl").write_bytes(HEADER + line + b"\n" + HEADER)
    with pytest.raises(DataError, match=r"l\.jsonl:2: a broken line") as caught:
        LedgerFile(tmp_path / "l.jsonl")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_counts_in_a_ledger_that_can_not_be_true_are_unknown(tmp_path: Path) -> None:
    from dear.backends.ledger_file import LedgerFile

    row = b'{"key": "%s", "text": "", "finish": "s", "prompt_tokens": %s, "completion_tokens": 1}\n'
    rows = [row % (b"a", b"9" * 400), row % (b"b", b"-1"), row % (b"c", b"7")]
    (tmp_path / "l.jsonl").write_bytes(HEADER + b"".join(rows))
    file = LedgerFile(tmp_path / "l.jsonl")
    file.close()
    assert [file.answers[k].prompt_tokens for k in "abc"] == [None, None, 7]


# TLS


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout key -out cert"
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *words.split(), *alternative], cwd=folder, check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_that_does_not_verify_is_refused_at_once(
    host: str, self_signed: ssl.SSLContext
) -> None:
    with serving(lambda _h, _b: RIGHT, self_signed) as server:
        url = f"https://{host}:{server.server_port}"
        ended = asks("ask(sys.argv[1], retries=6, backoff_s=100.0)", url)
        assert server.asked == []
    assert "the server's certificate is not valid here: self-signed" in ended.out
    assert "SSL_CERT_FILE" in ended.out
    assert "seen: []" in ended.out
    assert seconds_of(ended) < LONG_S
