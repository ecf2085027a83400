"""The application: the routes, their guard and the page of one service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from recycler import __version__
from recycler.service import document, problems
from recycler.service.assets import STATIC, Kept, version
from recycler.service.broadcast import Broadcast
from recycler.service.config import ServiceConfig
from recycler.service.guard import Guard
from recycler.service.live import Live
from recycler.service.routes import (
    access,
    comparisons,
    events,
    explorer,
    exports,
    health,
    ledger,
    machine,
    operations,
    pages,
    pools,
    results,
    studies,
    trials,
)
from recycler.service.state import Service
from recycler.service.supervisor import Supervisor
from recycler.store.sql import SqlStore
from recycler.submit.ledger import find_ledger

API = "/api/v1"
ROUTES = (
    health,
    ledger,
    machine,
    pools,
    studies,
    trials,
    results,
    comparisons,
    explorer,
    exports,
    events,
    operations,
    access,
)
ABOUT = (
    "Pools of checkpoints, studies that search their merges, fronts, predictions, comparisons and "
    "exports. Long work is an operation: the reply has its number, and its end has the result."
)


def make_app(config: ServiceConfig) -> FastAPI:
    """The application of a service; it begins to work when it is started."""
    config = config.model_copy(update={"store": find_ledger(config.store)})
    store = SqlStore(config.store)
    service = Service(config, store, Live(store), Supervisor(store, config))

    streams = Broadcast(store, service.live, config.limits.streams)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.supervisor.start()
        yield
        streams.close()
        service.supervisor.close()
        store.close()

    app = FastAPI(
        title="recycler",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        generate_unique_id_function=document.operation_id,
        redoc_url=None,
        responses=problems.responses(),
        separate_input_output_schemas=False,
    )
    app.state.service, app.state.broadcast = service, streams
    problems.install(app, pages.of_problem)
    document.install(app, f"{API}/docs")
    for module in ROUTES:
        app.include_router(module.router, prefix=API)
    app.include_router(pages.router)
    app.add_middleware(Guard, service=service)
    app.mount(f"/static/{version()}", GZipMiddleware(Kept(directory=STATIC)), name="static")
    return app
