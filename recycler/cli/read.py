"""Commands that read a study: `recycler front`, `recycler show`, `recycler pick`."""

from importlib import import_module as lazy
from pathlib import Path

import click

from recycler.cli.common import FOLDER, as_json, numbers, print_json, results_of, write


@click.command()
@click.argument("study")
@click.option("--html", type=FOLDER, help="Write the report, one self-contained file.")
@click.option("--png", type=FOLDER, help="Write a picture of the front.")
@click.option("--csv", type=FOLDER, help="Write members and baselines as a table.")
@click.option("--all", "whole", is_flag=True, help="Print all rows, also those beyond one screen.")
@as_json
@click.pass_obj
def front(
    store: str,
    study: str,
    html: Path | None,
    png: Path | None,
    csv: Path | None,
    whole: bool,
    as_json: bool,
) -> None:
    """Show what to take from STUDY and its Pareto front, or write a page, a picture or a table.

    \b
    Example: recycler front demo --html report.html
    """
    results = results_of(store, study)
    if html:
        page = lazy("recycler.report.page").html_page(results)
        write(html, page.encode(), b"<title>recycler:")
    if png:
        write(png, lazy("recycler.report.picture").front_png(results), b"recycler")
    if csv:
        table = lazy("recycler.report.tables").front_csv(results)
        write(csv, table.encode(), b"trial,name,kind")
    if as_json:
        print_json(results.front_json())
    elif not (html or png or csv):
        lazy("recycler.report.text").front(results, whole=whole)


@click.command()
@click.argument("study")
@click.argument("trial")
@as_json
@click.pass_obj
def show(store: str, study: str, trial: str, as_json: bool) -> None:
    """Show one TRIAL of STUDY, a number or a name: recipe, scores, digest, timings, failure.

    \b
    Example: recycler show demo 17
    """
    results = results_of(store, study)
    number = lazy("recycler.front.naming").named(results, trial).number
    table = results.trial_json(number)
    print_json(table) if as_json else lazy("recycler.report.text").trial(table)


@click.command()
@click.argument("study")
@click.option("--knee", is_flag=True, help="The best balanced member, by the shape of the front.")
@click.option(
    "--prefer",
    metavar="[a=2,b=1]",
    is_flag=False,
    flag_value="",
    help="Largest weighted sum of gains; alone, with the weights of the objectives.",
)
@click.option("--floor", metavar="a=0.6", help="Best average among members at least this good.")
@as_json
@click.pass_obj
def pick(
    store: str, study: str, knee: bool, prefer: str | None, floor: str | None, as_json: bool
) -> None:
    """Print the number of the trial to take from STUDY, and why on standard error.

    By default it is the member with the best expected weighted average that meets all floors, or
    the single checkpoint or reference to keep if no merge is expected to be better.

    \b
    Example: recycler pick demo --floor arithmetic=0.5
    """
    if knee + (prefer is not None) + bool(floor) > 1:
        raise click.UsageError("give one of --knee, --prefer and --floor.")
    results = results_of(store, study)
    preferred = None if prefer is None else numbers(prefer) if prefer else {}
    chosen = results.picked(knee, preferred, numbers(floor) if floor else None)
    why = lazy("recycler.report.decision").why(results, chosen, asked=bool(prefer))
    if as_json:
        print_json({**results.trial_json(chosen.number), "why": why})
        return
    click.echo(why, err=True)
    click.echo(chosen.number)
