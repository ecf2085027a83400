"""The server: listens, says where, and ends without losing anything."""

import socket
from collections.abc import Callable

import uvicorn

from recycler.beneath import confine
from recycler.errors import Unavailable
from recycler.service.app import make_app
from recycler.service.config import ServiceConfig
from recycler.service.problems import Unauthorized
from recycler.service.state import Service


def serve(config: ServiceConfig, tell: Callable[[str], object]) -> None:
    """Serve until the process is asked to end. Studies that run go on.

    Args:
        config: settings of the service.
        tell: called with the address, once clients can connect.

    Raises:
        Unavailable: the address is in use.
    """
    listener = _listen(config)
    host, port = listener.getsockname()[:2]
    config = config.model_copy(update={"port": port})
    app = make_app(config)
    require_tokens(app.state.service)
    confine([*config.checkpoints, config.exports])
    shown = f"[{host}]" if ":" in host else host
    tell(f"http://{shown}:{port}")
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listener])


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
    listener = socket.socket(family, socket.SOCK_STREAM)
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
