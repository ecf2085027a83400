"""What `recycler init` says on a terminal: what it decided, and what to do next."""

from recycler.checkpoints.findings import printable
from recycler.report.text import console
from recycler.submit.draft import Draft


def draft(made: Draft) -> None:
    """Print the decisions of a study file that was written, and the next commands."""
    out = console()

    def say(what: str, text: str) -> None:
        out.print(f"{what:<12}{printable(text)}", markup=False, soft_wrap=True)

    names = [str(entry["name"]) for entry in made.checkpoints]
    more = f", … ({len(names) - 8} more)" if len(names) > 8 else ""
    say("checkpoints", f"{len(names)}: {', '.join(names[:8])}{more}")
    say("base", f"{made.base['name'] if made.base else 'none'}: {made.why['base']}")
    for goal in made.goals:
        say("objective", f"{goal.name}, {goal.metric}: {goal.comment}")
    for goal in made.held_out:
        say("held out", f"{goal.name}, {goal.metric}: {goal.comment}")
    say("items", made.why["items"])
    say("chat", f"template {'on' if made.chat else 'off'}: {made.why['chat']}")
    say("dtype", made.why["dtype"])
    say(
        "machine",
        f"{made.workers} worker{'s' * (made.workers > 1)} on {made.device}: {made.why['workers']}",
    )
    say("batch", f"{made.batch_size}: {made.why['batch']}")
    say("written", str(made.file))
    say("next", f"recycler scout {made.file}, then recycler run {made.file}")
