"""A run: take a study's lease, start its executor and drive the loop to the end, in this process."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from recycler.errors import Conflict
from recycler.loop import Listener, Source, run, run_tries
from recycler.nouns.evaluation import Split
from recycler.nouns.plan import Plan
from recycler.nouns.status import Status, Wanted
from recycler.protocols import Executor, HeldLease, Store

# A request to stop at once. On SIGTERM Ray would print a stack trace.
AT_ONCE = signal.SIGUSR1


class Terminated(SystemExit):
    """This process was asked to end by SIGTERM, SIGHUP or SIGUSR1."""


def run_study(
    plan: Plan,
    store: Store,
    source: Source,
    make_executor: Callable[[], Executor],
    listen: Listener = lambda progress: None,
    phases: Sequence[str] = (Split.SELECT, Split.TEST),
    keep_answers: bool | None = None,
    tries_only: bool = False,
) -> Status:
    """Run or resume a study to its end, as the only process that does so.

    SIGTERM and SIGHUP end the run as Ctrl-C does: the study's status becomes `stopped` and the
    lease is freed. A request to stop at once does the same in the main thread; in another thread it
    is seen when the next job comes back.

    Args:
        plan: the study, as stored in the ledger.
        store: its ledger.
        source: where proposals come from.
        make_executor: called once the lease is held.
        listen: called after each event.
        phases: splits that are scored after the search.
        keep_answers: whether answers to select and test items are kept; None: up to a size.
        tries_only: score nothing but the tries that the study waits for (see `loop.run_tries`).

    Raises:
        Conflict: a living process runs it, or the ledger has another plan by now.
        StudyFailed: too many candidates failed.
        Unavailable: a fault of the environment persisted; the study is paused.
    """
    with _signals(), store.hold(plan.name) as lease:
        if store.plan(plan.name) != plan:
            raise Conflict(
                f"study {plan.name!r} was replaced or extended since it was opened here.",
                hint="open it again: `Study(name)`, or run its file once more.",
            )
        executor = make_executor()
        try:
            with _stopped_at_once(lease):
                return (run_tries if tries_only else run)(
                    plan,
                    store,
                    source,
                    executor,
                    listen,
                    phases,
                    lambda: lease.wanted,
                    lease.tell,
                    keep_answers,
                )
        finally:
            executor.close()


def request(store: Store, study: str, wanted: Wanted) -> bool:
    """Ask the process that runs a study to pause or stop (see `Wanted`).

    Returns:
        Whether a living process runs it. If none does, the call has no effect.
    """
    return store.want(study, wanted)


@contextmanager
def _stopped_at_once(lease: HeldLease) -> Iterator[None]:
    """While inside, a request to stop at once interrupts the main thread."""
    main = threading.main_thread()
    if threading.current_thread() is main:
        lease.on_now(lambda: signal.pthread_kill(main.ident or 0, AT_ONCE))
    try:
        yield
    finally:
        lease.on_now(None)


@contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions, as Python does with SIGINT; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(128 + number)

    asked = (signal.SIGTERM, signal.SIGHUP, AT_ONCE)
    before = {number: signal.getsignal(number) for number in asked}
    # a process that ignores SIGHUP was started with nohup and should go on
    for number in asked:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
