"""The server: listens, says where, and ends without losing anything."""

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from recycler.beneath import confine
from recycler.environment import spare_memory
from recycler.errors import NotFound, Unavailable
from recycler.service.app import make_app
from recycler.service.broadcast import Broadcast
from recycler.service.config import ServiceConfig
from recycler.service.problems import Unauthorized
from recycler.service.state import Service

GRACE = 10  # seconds that requests have when the service ends
# How long a computation holds the interpreter while requests wait [s]; each needs it several times.
SWITCH = 0.0005


def serve(config: ServiceConfig, tell: Callable[[str], object]) -> None:
    """Serve until the process is asked to end. Studies that run go on.

    Args:
        config: settings of the service.
        tell: called with the address, once clients can connect.

    Raises:
        Unavailable: the address is in use, or exports can't be written.
        NotFound: a folder of checkpoints is not there.
    """
    spare_memory()
    require_folders(config)
    sys.setswitchinterval(SWITCH)
    listener = _listen(config)
    host, port = listener.getsockname()[:2]
    config = config.model_copy(update={"port": port})
    app = make_app(config)
    require_tokens(app.state.service)
    confine([*config.checkpoints, config.exports])
    shown = f"[{host}]" if ":" in host else host
    tell(f"http://{shown}:{port}")
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(config.names),  # other names: a proxy of ours says who asks
        http=patient(config.limits.seconds),
        timeout_graceful_shutdown=GRACE,
    )
    Server(settings, app.state.broadcast).run(sockets=[listener])


class Server(uvicorn.Server):
    """Ends the event streams first: it waits for all requests, and those would never end."""

    def __init__(self, settings: uvicorn.Config, streams: Broadcast) -> None:
        super().__init__(settings)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the requests, then the service."""
        self._streams.close()
        await super().shutdown(sockets)


def patient(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which closes connections whose request has not begun after some seconds.

    Without that, clients that send headers bit by bit hold as many connections as there may be.
    """

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self._stop()

        def _look(self) -> None:
            if self._is_busy():
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._end)

        def _is_busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _stop(self) -> None:
            if self._timer:
                self._timer.cancel()
                self._timer = None

        def _end(self) -> None:
            self._timer = None
            if not self._is_busy():
                self.transport.close()

    return Patient


def require_folders(config: ServiceConfig) -> None:
    """Raise NotFound or Unavailable if the service could not read or write where it should."""
    for folder in config.checkpoints:
        if not Path(folder).is_dir():
            raise NotFound(
                f"{folder} is no folder, expected one below which checkpoints lie.",
                hint="correct `checkpoints` in the settings, or --root.",
            )
    try:
        Path(config.exports).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=config.exports):
            pass
    except OSError as error:
        raise Unavailable(
            f"nothing can be written to {config.exports}, the folder of exports: {error.strerror}.",
            hint="correct `exports` in the settings, or --exports.",
        ) from error


def require_tokens(service: Service) -> None:
    """Raise Unauthorized if a service that needs tokens has none, so that nobody could use it."""
    config = service.config
    if config.needs_tokens and not service.store.access.any_valid():
        raise Unauthorized(
            f"{config.host} needs tokens, and the ledger {service.store.where} has no valid one.",
            hint="make one with `recycler token create NAME --scope read --scope write`, or listen "
            "on 127.0.0.1.",
        )


def _listen(config: ServiceConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # the protocol is named: asyncio sends answers without delay only on such sockets
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"can't listen on {config.host}:{config.port}: {error.strerror}.",
            hint="choose another port with --port; 0 takes any free one.",
        ) from error
    listener.listen(2048)
    return listener
