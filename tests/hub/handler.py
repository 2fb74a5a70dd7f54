"""HTTP of the local Hub: reads requests, asks the routes, writes answers, carries out the ordered faults."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.hub.exchange import Answer, Call, RefusedError, Request
from tests.hub.plans import Plan
from tests.hub.routes import route
from tests.hub.state import State

CHUNK = 1 << 16


class Server(ThreadingHTTPServer):
    """One address of the local Hub: its own, or that of its large files."""

    request_queue_size = 64

    def __init__(self, state: State, storage: bool):
        self.state = state
        self.storage = storage
        self.open: set[socket.socket] = set()
        self.resets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Say goodbye, unless the connection is to end with a reset: then close it with nothing said."""
        if request in self.resets:
            self.resets.discard(request)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close(self) -> None:
        """No new connections, and an end to those that clients keep open."""
        self.shutdown()
        self.server_close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        with suppress(OSError):  # the client went first
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read the calls in `requests`; standard error stays theirs."""

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # a client may go whenever it likes
            super().handle()

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        plan = self.server.state.plans.take(self.command, path)
        limit = plan.after_bytes if plan and not plan.answer else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = b"".join(self.pieces(limit))
        if self.command == "PUT" and self.server.storage:
            with self.server.state.lock:
                self.server.state.uploads[path.rsplit("/", 1)[-1]] += len(body)
        if plan and limit is not None and self.has_body():
            self.end(plan, path, headers)
            return
        request = Request(self.command, path, parse_qs(query), headers, body)
        answer = plan.answer if plan and plan.answer else self.ask(request)
        if plan and plan.answer is None and limit is None:
            self.end(plan, path, headers)
            return
        self.send(answer, path, headers, limit)
        if limit is not None and plan:
            self.hang_up(plan)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def ask(self, request: Request) -> Answer:
        state = self.server.state
        with state.lock:
            try:
                return self.ranged(request, route(state, request, self.server.storage))
            except RefusedError as refusal:
                return refusal.answer

    def ranged(self, request: Request, answer: Answer) -> Answer:
        """The part of a file that a Range header asks for."""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if answer.status != 200 or "Accept-Ranges" not in answer.headers or not wanted:
            return answer
        size = len(answer.body)
        first, last = wanted.groups()
        if first:
            start, stop = int(first), min(int(last) + 1, size) if last else size
        else:
            start, stop = max(size - int(last or 0), 0), size
        if start >= size or stop <= start:
            return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        placed = {**answer.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return Answer(206, answer.body[start:stop], placed)

    def has_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or int(self.headers.get("Content-Length") or 0) > 0

    def pieces(self, limit: int | None) -> Iterator[bytes]:
        """The body, whether its length was told or it comes in chunks; at most `limit` bytes of it."""
        left = limit
        for size in self.chunk_sizes():
            wanted = size if left is None else min(size, left)
            while wanted:
                piece = self.rfile.read(min(wanted, CHUNK))
                if not piece:
                    raise ConnectionError("the client stopped in the middle of its request")
                yield piece
                wanted -= len(piece)
                size -= len(piece)
                left = None if left is None else left - len(piece)
            if size:  # cut here
                return

    def chunk_sizes(self) -> Iterator[int]:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield int(self.headers.get("Content-Length") or 0)
            return
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            yield size
            self.rfile.readline()
        self.rfile.readline()

    def send(self, answer: Answer, path: str, headers: dict[str, str], limit: int | None) -> None:
        self.note(path, answer.status, headers)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if limit is None else answer.body[:limit])

    def end(self, plan: Plan, path: str, headers: dict[str, str]) -> None:
        self.note(path, 0, headers)
        self.hang_up(plan)

    def hang_up(self, plan: Plan) -> None:
        self.close_connection = True
        if plan.reset:
            self.server.resets.add(self.connection)

    def note(self, path: str, status: int, headers: dict[str, str]) -> None:
        with self.server.state.lock:
            self.server.state.calls.append(Call(self.command, path, status, headers))
