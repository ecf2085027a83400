"""The hour of docs/guide.md, typed word for word; then every other command of README and docs.

The pools are GPT-2 and Qwen2 in bfloat16, made by transformers, and four of the demo's Llamas.
"""

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import toy
import yaml
from click.testing import CliRunner

from recycler import demo
from recycler.cli.main import cli
from recycler.submit.config import parse_study
from recycler.submit.workspace import Workspace

ROOT = Path(__file__).parent.parent
NAMES = ("sft-a", "sft-b", "dpo-c", "dpo-d")
PAGES = ("README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))))


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in that language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The commands of a page, block by block, without comments."""
    return [
        [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]
        for block in blocks(page, "console")
    ]


def typed(command: str) -> str:
    """Type a command as a shell does, in this process; returns its standard output."""
    words = shlex.split(command)
    assert words.pop(0) == "recycler", command
    given = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
    done = CliRunner().invoke(cli, given)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{command}: {done.exception}") from done.exception
    assert done.exit_code == 0, f"{command}: {done.output}"
    return done.stdout


def renamed(source: Path, target: Path, names: dict[str, str], rows: int) -> None:
    """Copy tasks under other names, with their first rows only."""
    target.mkdir()
    for old, new in names.items():
        config = yaml.safe_load((source / f"{old}.yaml").read_text())
        config |= {"task": new, "dataset_kwargs": {"data_files": {"test": f"{new}.jsonl"}}}
        lines = (source / f"{old}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (target / f"{new}.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
        (target / f"{new}.yaml").write_text(yaml.safe_dump(config))


def toy_drawer(root: Path, kind: str, dtype: str) -> None:
    """runs/, base/ and tasks/ of small models with random weights."""
    for seed, name in enumerate(NAMES):
        toy.checkpoint(root / "runs" / name, kind, seed, dtype=dtype)
    toy.checkpoint(root / "base", kind, 9, dtype=dtype)
    made = toy.tasks(root / "made")
    renamed(made, root / "tasks", {"text": "code", "choice": "chat", "word": "prose"}, 40)


def demo_drawer(root: Path) -> None:
    """The same of four of the demo's checkpoints, with few items."""
    home = Path(demo.__file__).parent
    for name, folder in zip(NAMES, ("code-a", "early", "math-a", "recall-a"), strict=True):
        shutil.copytree(home / "checkpoints" / folder, root / "runs" / name)
    shutil.copytree(home / "checkpoints" / "base", root / "base")
    names = {"code": "code", "arithmetic": "chat", "prose": "prose"}
    renamed(home / "tasks", root / "tasks", names, 60)


def started(command: str) -> subprocess.Popen:
    """The run of the guide's first terminal, once it has scored more than the singles."""
    arguments = [sys.executable, "-m", *shlex.split(command)]
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ledger, deadline = Path(".recycler/ledger.db"), time.monotonic() + 120
    while time.monotonic() < deadline:
        assert run.poll() is None, f"it ended before it was stopped: {run.stdout.read()}"
        if ledger.exists():
            store = Workspace(create=False).store
            rows = {row["name"]: row for row in store.studies()}
            store.close()
            if rows.get("drawer", {"complete": 0})["complete"] > len(NAMES):
                return run
        time.sleep(0.2)
    raise AssertionError("the run scored nothing")


@contextmanager
def one_core() -> Iterator[None]:
    """A machine of one core, for which `init` writes one worker and a run starts no Ray."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def hour(small: bool) -> dict[str, str]:
    """Type the guide from top to bottom, but for the deletion; command -> its output."""
    page = "docs/guide.md"
    said: dict[str, str] = {}
    run = None
    try:
        for command in (line for block in commands(page) for line in block):
            if command.startswith("recycler rm"):
                break
            if command == "recycler run drawer.yaml" and run is None:
                run = started(command)
                continue
            with one_core() if small and command.startswith("recycler init") else nullcontext():
                said[command] = typed(command)
            if command == "recycler stop drawer":
                out, _ = run.communicate(timeout=120)
                assert run.returncode == 0, out
    finally:
        if run is not None and run.poll() is None:
            run.kill()
    return said


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECYCLER_STORE", str(tmp_path / ".recycler" / "ledger.db"))
    (tmp_path / ".recycler").mkdir()
    return tmp_path


@pytest.mark.parametrize("pool", ["gpt2", "qwen2", "demo"])
def test_the_hour(pool, here):
    demo_drawer(here) if pool == "demo" else toy_drawer(
        here, pool, "bfloat16" if pool == "qwen2" else "float32"
    )
    said = hour(small=pool != "gpt2")
    table = json.loads(typed("recycler front drawer --json"))
    assert table["status"] == "complete"
    assert table["evaluations"] == 50
    pick = table["decision"]["pick"]
    assert said["recycler pick drawer"].strip() == str(pick)
    assert table["decision"]["title"] in said["recycler front drawer"]
    assert json.loads(Path("best/recycler.json").read_text())["trial"] == pick
    card = Path("best/README.md").read_text()
    assert table["decision"]["verdict"]["sentence"] in card
    assert "as in the ledger" in said["recycler verify best/ --score"]
    for name in NAMES:  # the drawer is as it was
        assert {p.name for p in Path("runs", name).iterdir()} >= {"config.json"}
    if pool == "gpt2":
        every_other_command(here)
    for command in ("recycler rm drawer --yes", "recycler rm drawer-scout --yes"):
        assert command in (ROOT / "docs" / "guide.md").read_text()
        typed(command)
    assert json.loads(typed("recycler studies --json")) == []


def every_other_command(here: Path) -> None:
    """Run what README and the other pages of docs/ tell to type, on the finished study."""
    (recipe,) = [b for b in blocks("docs/merging.md", "yaml") if b.startswith("method:")]
    Path("recipe.yaml").write_text(recipe)
    shutil.rmtree("best")
    Path("drawer.yaml").rename("kept.yaml")
    for page in PAGES:
        if page == "docs/guide.md":
            continue
        for command in (line for block in commands(page) for line in block):
            if command.startswith("make "):
                target = command.split()[1]
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(), command
            elif command.startswith("python bench/"):
                assert (ROOT / command.split()[1]).is_file(), command
            elif command.startswith("pip install"):
                continue
            else:
                typed(command)


def test_the_study_files_of_the_docs_are_valid():
    found = [b for page in PAGES for b in blocks(page, "yaml") if b.startswith("study:")]
    assert found
    for block in found:
        parse_study(yaml.safe_load(block))


def test_the_messages_of_the_troubleshooting_page_exist():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^- \*\*`(.+?)`\*\*", page, flags=re.MULTILINE)
    assert len(quoted) > 15
    sources = "\n".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8"))
        for file in (ROOT / "recycler").rglob("*.py")
    )
    sources = re.sub(r"\{[^{}]*\}", "…", sources)
    missing = [text for text in quoted if text not in sources]
    assert not missing


def test_links_of_the_docs_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_every_command_is_in_the_docs():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for name in cli.commands:
        assert f"recycler {name}" in text, name
