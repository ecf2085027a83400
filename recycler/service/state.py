"""What the routes of one service share, and how they get at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from recycler.nouns.operation import Operation
from recycler.service.admission import admit_arguments
from recycler.service.config import ServiceConfig
from recycler.service.live import Live
from recycler.service.supervisor import Supervisor
from recycler.store.sql import SqlStore
from recycler.submit.workspace import Workspace

SCOPES = ("read", "write")
Id = Annotated[int, Path(ge=1, lt=2**31, description="number of an operation")]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        name: name of the token; `local` on this machine without tokens.
        scopes: what it may do.
        token: id of the token; empty without one.
    """

    name: str = "local"
    scopes: frozenset[str] = field(default_factory=lambda: frozenset(SCOPES))
    token: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        config: its settings.
        store: its ledger.
        live: studies as it shows them.
        supervisor: starts the processes of operations.
    """

    config: ServiceConfig
    store: SqlStore
    live: Live
    supervisor: Supervisor

    @property
    def workspace(self) -> Workspace:
        """The ledger with its pools."""
        return Workspace(self.config.store, create=False, store=self.store)

    def ask(
        self,
        caller: Caller,
        kind: str,
        subject: str,
        arguments: Mapping[str, Any],
        priority: int = 0,
    ) -> Operation:
        """Put an operation into the queue.

        Raises:
            Unavailable: the queue is full.
            Forbidden: its arguments name what the settings do not allow (see `admission`).
        """
        made = self.store.operations.ask(
            kind,
            subject,
            admit_arguments(arguments, self.config),
            owner=caller.name,
            priority=priority,
            most=self.config.limits.queue,
        )
        self.supervisor.wake()
        return made


def service_of(request: Request) -> Service:
    """The service that a request is sent to."""
    found: Service = request.app.state.service
    return found


def caller_of(request: Request) -> Caller:
    """Who sent a request; set by `guard`."""
    found: Caller = request.scope.get("caller") or Caller()
    return found


Here = Annotated[Service, Depends(service_of)]
By = Annotated[Caller, Depends(caller_of)]
