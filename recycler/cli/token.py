"""`recycler token`: who may use the service."""

import re
from typing import Any

import click

from recycler.cli.common import as_json, print_json, workspace_of
from recycler.errors import InvalidConfig

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the service.

    \b
    Example: recycler token create ann --scope read --scope write --expires 30d
    """


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["read", "write"]),
    multiple=True,
    help="What it may do (repeatable).  [default: read]",
)
@click.option("--expires", metavar="TIME", help="How long it is valid, such as 12h or 30d.")
@as_json
@click.pass_obj
def create(
    store: str, name: str, scopes: tuple[str, ...], expires: str | None, as_json: bool
) -> None:
    """Make a token. Its secret is printed once and stored nowhere."""
    access = workspace_of(store, create=True).store.access
    secret, made = access.create(name, scopes or ("read",), seconds_of(expires))
    if as_json:
        print_json({**made.to_json(), "secret": secret})
        return
    click.echo(secret)
    until = f"until {made.to_json()['expires']}" if made.expires else "until it is revoked"
    click.echo(
        f"token {name}: {', '.join(made.scopes)}; valid {until}. This is its only copy.", err=True
    )


@token.command("list")
@as_json
@click.pass_obj
def list_tokens(store: str, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    rows = [found.to_json() for found in workspace_of(store).store.access.tokens()]
    if as_json:
        print_json({"tokens": rows})
        return
    for row in rows:
        used = f"used {row['used']}" if row["used"] else "never used"
        until = f"until {row['expires']}" if row["expires"] else "without end"
        scopes = ",".join(row["scopes"])
        click.echo(f"{row['id']}  {row['name']:20}  {scopes:10}  {row['state']:8} {until}, {used}")
    if not rows:
        click.echo("no token; make one with `recycler token create NAME`.", err=True)


@token.command()
@click.argument("name")
@as_json
@click.pass_obj
def revoke(store: str, name: str, as_json: bool) -> None:
    """Revoke a token, by name or id, and end its sessions."""
    revoked = [found.to_json() for found in workspace_of(store).store.access.revoke(name)]
    if as_json:
        print_json({"revoked": revoked})
        return
    for row in revoked:
        click.echo(f"revoked {row['name']} ({row['id']})", err=True)


def seconds_of(text: str | None) -> float | None:
    """`30d` in seconds; None for no time.

    Raises:
        InvalidConfig: it is no time.
    """
    if text is None:
        return None
    found: Any = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if found is None or not int(found[1]):
        raise InvalidConfig(
            f"{text!r} is no time.", hint="give a number with m, h, d or w, such as 12h or 30d."
        )
    return float(int(found[1]) * _UNITS[found[2]])
