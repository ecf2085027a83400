"""The ledger behind a service: the same readings and requests as a ledger here.

Commands compute from these rows with the same functions, so they print the same.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import absolute
from recycler.checkpoints.pool import labels
from recycler.client import Client
from recycler.client.operations import patient
from recycler.client.transport import part
from recycler.errors import InvalidConfig
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.recipe import Recipe
from recycler.nouns.status import Wanted
from recycler.nouns.trial import Kind, Proposal, Trial
from recycler.nouns.wire import Packed, answers_of, trial_of
from recycler.submit.workspace import Workspace
from recycler.yamlfile import read_yaml

Folder = str | Path
AWAY = 300.0  # seconds that a server may be away while a study is watched


class RemoteCatalog:
    """Pools of a service. Fingerprints of files here are remembered until the process ends."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def pools(self) -> list[str]:
        """Names of the registered pools, those of studies too."""
        return list(self._client.transport.get("/ledger/pools")["pools"])

    def pool(self, name: str) -> dict[str, Any]:
        """The spec of a pool. Raises NotFound, which lists the known pools."""
        found = self._client.transport.get(f"/ledger/pools/{part(name)}")
        return dict(found["spec"])

    def fingerprint(self, stamp: str) -> str | None:
        """The fingerprint of files here that were hashed by this process."""
        return self._known.get(stamp)

    def remember_fingerprint(self, stamp: str, fingerprint: str) -> None:
        """Remember the fingerprint of files here."""
        self._known[stamp] = fingerprint


class RemoteStore:
    """What commands read from a ledger and ask of the runs of its studies, over HTTP.

    The rest of `protocols.Store`, which only a run uses, is missing: runs are the server's.
    """

    def __init__(self, client: Client) -> None:
        self._client, self.where = client, client.url
        self.catalog = RemoteCatalog(client)
        self._readings: dict[str, tuple[str, Packed]] = {}
        self._patience = 0.0  # a server that was reached once may go away and come back

    def _get(self, study: str, what: str, **params: Any) -> Any:
        path = f"/ledger/studies/{part(study)}/{what}"
        found = patient(lambda: self._client.transport.get(path, **params), self._patience)
        self._patience = AWAY
        return found

    def plan(self, study: str) -> Plan:
        """The plan of a study. Raises NotFound, which lists the known studies."""
        return Plan.from_json(self._get(study, "plan"))

    def studies(self) -> list[dict[str, Any]]:
        """The status of every study, oldest first."""
        return list(self._client.transport.get("/ledger/studies")["studies"])

    def status(self, study: str) -> dict[str, Any]:
        """The status of a study without its trials."""
        return dict(self._get(study, "status"))

    def trials(self, study: str, since: int = -1) -> list[Trial]:
        """All trials by number, or those that changed after an event; without item outcomes."""
        return [trial_of(row) for row in self._get(study, "trials", since=since)["trials"]]

    def read(self, study: str) -> Reading:
        """A study with its trials and item outcomes, all read at the same moment."""
        mark, known = self._readings.get(study, ("", None))
        path = f"/ledger/studies/{part(study)}/reading"
        headers = {"If-None-Match": mark} if known else {}
        answer = self._client.transport.request("GET", path, headers=headers)
        if known is None or answer.status_code != 304:
            known = Packed.from_json(json.loads(answer.content))
            self._readings[study] = answer.headers.get("ETag", ""), known

        def answers(number: int, split: str, objective: str) -> Answers | None:
            asked = {"trial": number, "split": split, "objective": objective}
            return answers_of(self._get(study, "answers", **asked))

        return known.opened(answers)

    def outcomes(self, study: str, number: int, split: str) -> Mapping[str, Outcomes]:
        """Objective -> item outcomes of a trial on a split."""
        return self.read(study).outcomes(number, split)

    def ask_for(self, study: str, recipe: Recipe) -> Proposal:
        """Ask the next run of a study to score a merge; starts nothing."""
        path = f"/ledger/studies/{part(study)}/tries"
        return _proposal(self._client.transport.post(path, {"recipe": recipe.to_json()}))

    def asked_for(self, study: str) -> list[Proposal]:
        """The merges asked for that the study has no trial of yet, oldest first."""
        return [_proposal(row) for row in self._get(study, "tries")["tries"]]

    def want(self, study: str, wanted: Wanted) -> bool:
        """Ask the process that runs a study to pause or stop; false if none does."""
        if wanted == Wanted.PAUSE:
            return bool(self._client.pause(study)["asked"])
        return bool(self._client.stop(study, now=wanted == Wanted.NOW)["asked"])

    def delete_study(self, study: str) -> None:
        """Delete a study and its trials. Raises Conflict if a living process runs it."""
        self._client.delete(study)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class RemoteWorkspace(Workspace):
    """The pools and studies of a service; folders of pools are paths on the server."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Opens no connection yet. Raises InvalidConfig if the URL or the token is malformed."""
        self.client = Client(url, token)
        self.url = self.client.url
        self.store: Any = RemoteStore(self.client)

    def remove_pool(self, name: str) -> None:
        """Remove a pool from the registry; its folders stay."""
        self.client.remove_pool(name)

    def remove_study(self, study: str) -> dict[str, Any]:
        """Delete a study with its trials: `{"study", "trials"}`."""
        return self.client.delete(study)

    def check(
        self, folders: Sequence[Folder], base: Folder | None, deep: bool
    ) -> Mapping[str, Any]:
        """Check folders of the server; relative paths start from the current folder here."""
        paths, common = [here(f) for f in folders], here(base) if base else None
        if not deep:
            return self.client.check_pool(paths, common)
        return self.client.wait(self.client.deep_check(paths, common)).result or {}

    def register_pool(
        self, name: str, folders: Sequence[Folder], base: Folder | None, replace: bool
    ) -> None:
        """Register folders of the server, or those that one pool.yaml here lists.

        Args:
            name: its name.
            folders: the folders; relative paths start from the current folder here.
            base: common ancestor, if any.
            replace: replace a pool of that name.
        """
        if len(folders) == 1 and str(folders[0]).endswith((".yaml", ".yml")):
            entries, given = listed(Path(folders[0]))
        else:
            everything = [here(folder) for folder in [*folders, *([base] if base else [])]]
            rows = [
                {"name": label, "path": path}
                for label, path in zip(labels(everything), everything, strict=True)
            ]
            entries, given = rows[: len(folders)], rows[-1] if base else None
        asked = self.client.register_pool(name, entries, given, replace=replace)
        self.client.wait(asked)


def listed(file: Path) -> tuple[list[Any], Any]:
    """The entries of a pool's file and its base, with absolute paths."""
    table = read_yaml(file, "pool file", "check the path.")
    if not isinstance(table, dict) or not isinstance(table.get("checkpoints"), list):
        raise InvalidConfig(
            f"{file} has no list `checkpoints:`.",
            hint="see `recycler/demo/pool.yaml` for an example.",
        )
    home = file.absolute().parent
    base = table.get("base")
    return [placed(entry, home) for entry in table["checkpoints"]], base and placed(base, home)


def placed(entry: Any, home: Path) -> Any:
    """An entry of a pool with its path absolute; what is no entry is left to the server to refuse."""
    if isinstance(entry, str):
        return {"path": below(home, entry)}
    if isinstance(entry, Mapping) and isinstance(entry.get("path"), str):
        return {**entry, "path": below(home, entry["path"])}
    return entry


def here(folder: Folder) -> str:
    """A path of the command line as an absolute one (see `below`)."""
    return below(Path.cwd(), str(folder))


def below(home: Path, path: str) -> str:
    """A path as an absolute one without steps `..`: `~` is the user's home folder here."""
    found = absolute(path) if path.startswith("~") else home / path
    if ".." in found.parts:  # the last name is kept: a checkpoint is named after its folder
        found = found.resolve() if found.name == ".." else found.parent.resolve() / found.name
    return str(found)


def _proposal(row: Mapping[str, Any]) -> Proposal:
    return Proposal(
        kind=Kind(row["kind"]), name=row["name"], recipe=Recipe.from_json(row["recipe"])
    )
