"""The process of one operation: `python -m recycler.service.process ID`.

The ledger and the settings of the service come in the environment, so that nothing secret stands in
the list of processes.
"""

import json
import os
import signal
import sys
import traceback
from types import FrameType

from recycler.beneath import confine
from recycler.environment import prepare
from recycler.errors import RecyclerError
from recycler.nouns.operation import OperationState
from recycler.service.admission import admit_arguments
from recycler.service.config import SETTINGS, ServiceConfig
from recycler.service.work import WORK, Bench
from recycler.store.operations import Held
from recycler.submit.workspace import Workspace


class Cancelled(SystemExit):
    """The operation was cancelled."""


def main(id: int) -> int:
    """Claim an operation, do it, and write its end; exit code 0 if it is done."""
    config = ServiceConfig.model_validate_json(os.environ[SETTINGS])
    confine([*config.checkpoints, config.exports])
    workspace = Workspace(config.store, create=False)
    asked = workspace.store.operations.get(id)
    with workspace.store.operations.hold(id) as held:
        bench = Bench(id, asked.owner, workspace, config, held.tell)
        try:
            _interruptible(held)
            result = WORK[asked.kind](bench, admit_arguments(asked.arguments, config))
        except Cancelled:
            held.end(OperationState.CANCELLED)
            return 1
        except (SystemExit, KeyboardInterrupt):  # the machine goes down: another process goes on
            held.end(OperationState.QUEUED)
            return 1
        except RecyclerError as error:
            print(f"Error: {error}", file=sys.stderr)  # noqa: T201
            held.end(OperationState.FAILED, error=error.to_json())
            return 1
        except Exception as error:
            traceback.print_exc()
            found = RecyclerError(
                f"{type(error).__name__}: {error}", hint="its log has the whole trace."
            )
            held.end(OperationState.FAILED, error=found.to_json())
            return 1
        finally:
            held.on_cancel(None)
        held.end(OperationState.DONE, result=json.loads(json.dumps(result)))
    return 0


def _interruptible(held: Held) -> None:
    """From now on a cancelled operation raises Cancelled in the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Cancelled(1)

    signal.signal(signal.SIGUSR2, end)
    held.on_cancel(lambda: os.kill(os.getpid(), signal.SIGUSR2))


if __name__ == "__main__":
    prepare()
    sys.exit(main(int(sys.argv[1])))
