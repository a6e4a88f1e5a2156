"""A server that runs: where it listens, and how it ends."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from types import FrameType

import uvicorn

from kvlab.model import Transformer
from kvlab.serve.api import app
from kvlab.serve.gate import Gate
from kvlab.serve.worker import Worker
from kvlab.tokenizer import Tokenizer

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Server(uvicorn.Server):
    """uvicorn that, told to stop, lets answers under way end first, for `patience` seconds at most.

    Meanwhile new requests get 503. Told twice, it stops at once.
    """

    def __init__(
        self, worker: Worker, tokenizer: Tokenizer, name: str, *,
        key: str | None = None, hosts: frozenset[str] | None = None, patience: float = 30,
    ) -> None:  # fmt: skip
        self.worker, self.patience = worker, patience
        self.gate = Gate(app(worker, tokenizer, name), key, hosts)
        bound = max(1, round(patience))
        super().__init__(
            uvicorn.Config(
                self.gate,
                log_level="warning",
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=bound,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.gate.closing:
            self.force_exit = self.should_exit = True
            return
        self.close()

    def close(self) -> None:
        """Take no more requests, and end when those under way have."""
        self.gate.closing = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        until = time.monotonic() + self.patience
        while time.monotonic() < until and self.worker.state.waiting + self.worker.state.running:
            time.sleep(0.02)
        self.should_exit = True


def listening(host: str, port: int, *, key: str | None, is_open: bool) -> socket.socket:
    """A socket to serve at. Without a key, one that only this machine reaches, unless `is_open`.

    Raises: ValueError for another without a key, OSError where the port is taken.
    """
    if not is_local(host) and key is None and not is_open:
        raise ValueError(
            f"At {host} others could use the server, and no key is asked for. Give one, "
            "--api-key KEY or KVLAB_API_KEY, or say --open."
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"{host}, port {port}: {error.strerror or error}.") from None


def address_of(listener: socket.socket) -> str:
    """Where a socket listens, as a client names it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def n_blocks_for(model: Transformer, size: int, n_bytes: int = 2**30) -> int:
    """Blocks for 16 whole contexts, or as many as so much memory holds; for one at least."""
    config = model.config
    each = size * config.kv_bytes_per_token(model.dtype.itemsize)
    one = -(-config.max_positions // size)
    return max(one, min(16 * one, n_bytes // each))
