"""Commands that let trials answer: `recycler sample`."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER, as_json, print_json, study_of


@click.command()
@click.argument("study")
@click.argument("trials", nargs=-1, required=True, metavar="A [B ...]")
@click.option(
    "-p", "--prompt", "texts", multiple=True, metavar="TEXT", help="A prompt; repeatable."
)
@click.option("--prompts", "file", type=FOLDER, help="One a line, or .jsonl: prompt or messages.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    help="0 (default): greedy; else sampled.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the samples.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Longest answer.",
)
@click.option("--chat/--no-chat", default=None, help="Chat template; default: if there is one.")
@click.option("--device", default="cpu", help="torch device.")
@as_json
@click.pass_obj
def sample(
    store: str,
    /,
    study: str,
    trials: tuple[str, ...],
    texts: tuple[str, ...],
    file: Path | None,
    device: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Let trials of STUDY answer prompts, side by side. No folder is written.

    Trials are numbers or names: 17, single:code-a, uniform, greedy, pick, knee.

    \b
    Example: recycler sample demo pick single:math-a -p "12+7="
    """
    if not texts and file is None:
        raise click.UsageError("give a prompt with -p TEXT, or a file with --prompts FILE.")
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        found = study_of(store, study).sample(
            trials, texts, file=file, device=device, on_answer=bar.answered, **sampling
        )
    print_json(found.to_json()) if as_json else lazy("recycler.report.samples").samples(found)
