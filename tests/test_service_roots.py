"""Paths of requests: links that are swapped after the check, and while files are being read."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import toy

from recycler import beneath
from recycler.checkpoints.companions import companions
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint, NotFound, RecyclerError
from recycler.evaluate.tokenizer import load_tokenizer
from recycler.export import write_folder
from recycler.merge.resident import load_model
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.service.config import SETTINGS, ServiceConfig
from recycler.service.problems import Forbidden
from recycler.service.roots import Roots
from recycler.service.state import Caller, Service
from recycler.store.sql import SqlStore

ROUNDS = 60  # readings under a thread that swaps links as fast as it can


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A root with a checkpoint, and another of the same layout outside of it."""
    home = tmp_path_factory.mktemp("roots")
    toy.checkpoint(home / "root" / "ours", seed=1)
    toy.checkpoint(home / "secret", seed=2)
    (home / "secret" / "tokenizer_config.json").write_text(
        json.dumps(
            {**json.loads((home / "secret" / "tokenizer_config.json").read_text()), "secret": True}
        )
    )
    return home


@pytest.fixture
def confined(world, monkeypatch):
    """This process reads checkpoints below the root alone."""
    monkeypatch.setenv(beneath.ROOTS, "")
    beneath.confine([world / "root"])


@contextmanager
def swapping(link, *targets):
    """A thread that points a link at one target after the other, as fast as it can."""
    over = threading.Event()

    def work():
        number = 0
        while not over.is_set():
            new = link.with_name(f".new{number % 2}")
            new.symlink_to(targets[number % len(targets)])
            os.replace(new, link)
            number += 1
            time.sleep(number % 7 / 1000)  # some readings meet a swap, others do not

    link.unlink(missing_ok=True)
    link.symlink_to(targets[0])
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        link.unlink(missing_ok=True)


def tried(read, wanted=()):
    """What some readings return; None where they are refused. More of them until all wanted came."""
    found = []
    while len(found) < ROUNDS or (not {*wanted} <= {*found} and len(found) < 100 * ROUNDS):
        try:
            found.append(read())
        except (RecyclerError, OSError):
            found.append(None)
    return found


def test_without_roots_the_swap_does_succeed(world):
    """The other tests here would find a leak: this one does."""
    link = world / "root" / "link"
    ours, secret = (Checkpoint.open(world / p).fingerprint() for p in ("root/ours", "secret"))
    with swapping(link, "ours", "../secret"):
        found = tried(lambda: Checkpoint.open(link).fingerprint(), {ours, secret})
    assert secret in found
    assert ours in found


def test_a_folder_swapped_while_it_is_read_gives_nothing_of_the_other(world, confined):
    link = world / "root" / "link"
    ours = Checkpoint.open(world / "root" / "ours").fingerprint()
    with swapping(link, "ours", "../secret"):
        found = tried(lambda: Checkpoint.open(link).fingerprint())
    assert set(found) <= {ours, None}  # on a slow machine each reading may meet a swap
    assert Checkpoint.open(world / "root" / "ours").fingerprint() == ours


def test_weights_swapped_after_the_pool_was_opened_are_not_merged(world, confined, tmp_path):
    folder = world / "root" / "mixed"
    shutil.copytree(world / "root" / "ours", folder)
    weights = folder / "model.safetensors"
    beneath.confine([world / "root", tmp_path])
    pool = Pool.open([folder])
    recipe = Recipe("linear", (Ingredient(pool.checkpoints[0].fingerprint(), "mixed", 1.0),), "")
    weights.unlink()
    weights.symlink_to(world / "secret" / "model.safetensors")
    with pytest.raises(RecyclerError):
        write_folder(recipe, pool, pool.checkpoints[0], tmp_path / "out")
    weights.unlink()
    ours = world / "root" / "ours" / "model.safetensors"
    with swapping(weights, ours, world / "secret" / "model.safetensors"):
        found = tried(lambda: pool.checkpoints[0].fingerprint())
    assert set(found) <= {recipe.ingredients[0].fingerprint, None}
    shutil.rmtree(folder)


def test_companions_that_are_links_out_of_the_roots_are_not_copied(world, confined, tmp_path):
    folder = world / "root" / "donor"
    shutil.copytree(world / "root" / "ours", folder)
    beneath.confine([world / "root", tmp_path])
    table = folder / "tokenizer_config.json"
    table.unlink()
    table.symlink_to(world / "secret" / "tokenizer_config.json")
    pool = Pool.open([folder])
    donor = pool.checkpoints[0]
    assert "tokenizer_config.json" in companions(donor).taken  # loaders ask for it by name
    recipe = Recipe("linear", (Ingredient(donor.fingerprint(), "donor", 1.0),), "")
    with pytest.raises(BrokenCheckpoint) as caught:
        write_folder(recipe, pool, donor, tmp_path / "out")
    assert "outside the folders" in caught.value.message
    assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)


def test_libraries_read_files_that_nobody_can_swap(world, confined):
    link = world / "root" / "link"
    with swapping(link, "ours", "../secret"):
        found = tried(lambda: "secret" in load_tokenizer(str(link)).init_kwargs, {False})
    assert False in found
    assert set(found) <= {False, None}
    model = load_model(world / "root" / "ours", "auto")
    assert model.num_parameters() > 1000
    before = len(os.listdir("/proc/self/fd"))
    load_tokenizer(str(world / "root" / "ours"))
    assert len(os.listdir("/proc/self/fd")) == before  # nothing stays open


def test_links_of_the_hub_cache_are_read(world, confined):
    """models--a--b/snapshots/REVISION/FILE -> ../../blobs/HASH."""
    home = world / "root" / "models--a--b"
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for number, file in enumerate(sorted((world / "root" / "ours").iterdir())):
        shutil.copy(file, home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    ours = Checkpoint.open(world / "root" / "ours").fingerprint()
    assert Roots([world / "root"]).resolve("models--a--b/snapshots/abc") == snapshot
    assert Checkpoint.open(snapshot).fingerprint() == ours
    assert load_tokenizer(str(snapshot)).vocab_size == toy.VOCABULARY
    shutil.rmtree(home)


def test_resolving_under_a_swap_says_yes_only_to_the_inside(world):
    """Roots.resolve asks the kernel about an open file."""
    roots, link = Roots([world / "root"]), world / "root" / "link"
    kinds = set()
    with swapping(link, "ours", "../secret"):
        for _ in range(500):
            try:
                assert roots.resolve("link") == link
                kinds.add("inside")
            except (Forbidden, NotFound) as error:
                kinds.add(type(error).__name__)
    assert {"inside", "Forbidden"} <= kinds


def test_a_link_swapped_after_the_check_ends_the_operation(world, tmp_path):
    """The request is accepted; the process that works on it reads nothing outside."""
    config = ServiceConfig(
        store=f"sqlite:///{tmp_path}/ledger.db",
        checkpoints=(str(world / "root"),),
        exports=str(tmp_path / "exports"),
    )
    store = SqlStore(config.store)
    service = Service(config, store, None, type("Idle", (), {"wake": lambda self: None})())
    link = world / "root" / "later"
    for swapped, state in ((False, "done"), (True, "failed")):
        link.unlink(missing_ok=True)
        link.symlink_to("ours")
        asked = {"name": f"p{swapped}", "checkpoints": [{"name": "a", "path": str(link)}]}
        made = service.ask(Caller(), "register", asked["name"], asked)
        if swapped:
            link.unlink()
            link.symlink_to("../secret")
        environment = {**os.environ, SETTINGS: config.model_dump_json()}
        command = [sys.executable, "-m", "recycler.service.process", str(made.id)]
        subprocess.run(command, env=environment, timeout=120, check=False)
        ended = store.operations.get(made.id)
        assert ended.state == state, ended.error
    assert ended.error["code"] == "forbidden"
    assert store.catalog.pools() == ["pFalse"]
    link.unlink()
    store.close()
