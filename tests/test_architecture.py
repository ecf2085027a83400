"""The tree holds to its reading order, heavy packages to their places, `--help` to its speed."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recycler
from recycler import environment, errors

PACKAGE = Path(recycler.__file__).parent
HEAVY = {  # package -> modules (or packages, with all below them) that may import it
    # not merge.stream or merge.folder: importing torch takes longer than many a merge
    "torch": (
        "merge.plain",
        "merge.raw",
        "merge.resident",
        "merge.deep",
        "evaluate",
        "execute",
        "search.nehvi",
        "demo",
    ),
    "transformers": ("merge.resident", "evaluate", "execute", "demo"),
    "safetensors": ("merge",),
    "lm_eval": ("evaluate.harness", "evaluate.tasks"),
    "ray": ("execute.ray_cluster", "execute.ray_workers"),
    "botorch": ("search.nehvi",),
    "gpytorch": ("search.nehvi",),
    "cmaes": ("search.cmaes",),
    "optuna": ("search",),
    "numba": ("merge.kernels",),
    "llvmlite": ("merge.kernels",),
    "moocore": ("front.pareto",),
    "sqlalchemy": ("store",),
    "alembic": ("store",),
    "pydantic": ("settings", "submit.config", "evaluate", "execute", "search", "service"),
    "fastapi": ("service",),
    "uvicorn": ("service",),
    "jinja2": ("service",),
    "prometheus_client": ("service",),
    "httpx2": ("client",),
    "plotly": ("report",),
    "matplotlib": ("report",),
    "pandas": ("report",),
    "rich": ("report",),
}
CODES = {
    "RecyclerError": "error",
    "InvalidConfig": "invalid-config",
    "NotFound": "not-found",
    "Conflict": "conflict",
    "BrokenCheckpoint": "broken-checkpoint",
    "Incompatible": "incompatible",
    "MissingExtra": "missing-extra",
    "StudyFailed": "study-failed",
    "Mismatch": "mismatch",
    "Unavailable": "unavailable",
    "NotFinite": "not-finite",
}
FROZEN = ("store.migrations",)  # a schema is a long list, and is never edited
NEVER_FOR_HELP = sorted({*HEAVY, "numpy", "scipy", "yaml"})


def module_name(file):
    """`recycler/merge/disk.py` -> `merge.disk`; the package itself is the empty name."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in SOURCES.items()}
MODULES = sorted(set(SOURCES) - {""})


def reading_order():
    """The modules as recycler/README.md lists them."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```map\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.split()[0] for line in block.splitlines()]


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def run_time_imports(node):
    """Import statements below a node that are executed, not only read by a type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif is_type_checking(child):
            for other in child.orelse:
                yield from run_time_imports(other)
        else:
            yield from run_time_imports(child)


def targets(statement):
    """Dotted names that an import statement loads; of `from a import b` both a.b and a."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, "imports are absolute"
    return [f"{statement.module}.{alias.name}" for alias in statement.names]


def own(target):
    """The module of recycler that a dotted name belongs to; None for strangers."""
    first, *rest = target.split(".")
    if first != "recycler":
        return None
    while rest and ".".join(rest) not in SOURCES:
        rest.pop()
    return ".".join(rest)


def imported(tree):
    """Modules of ours that a source names: in imports of any kind, in `lazy("…")`, in tables."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = [target for statement in statements for target in targets(statement)]
    parents = [node.module for node in statements if isinstance(node, ast.ImportFrom)]
    texts = [
        node.value.partition(":")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"recycler(\.\w+)+(:\w+)?", node.value)
    ]
    texts = [text for text in texts if own(text) or text in sys.modules]
    return {own(target) for target in (*named, *parents, *texts)} - {None, ""}


def own_imports(name):
    return imported(TREES[name]) - {name}


def room(name):
    return name.split(".")[0]


def below(name, places):
    return any(name == place or name.startswith(f"{place}.") for place in places)


# --- imports ---


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_stands_above_it(name):
    order = reading_order()
    above = {"", *order[: order.index(name)]}  # the root package holds only the version
    assert sorted(own_imports(name) - above) == []


def test_the_order_of_imports_stands_in_the_map_alone():
    said = [n for n, f in SOURCES.items() if "May import" in f.read_text(encoding="utf-8")]
    assert said == []


def test_the_rule_sees_every_way_to_import():
    source = """
from typing import TYPE_CHECKING
from recycler.front import pareto
if TYPE_CHECKING:
    from recycler.study import Study
TABLE = {"x": "recycler.search.surrogate:Surrogate"}
def later():
    lazy("recycler.report.card").model_card()
"""
    assert imported(ast.parse(source)) == {
        *("front", "front.pareto", "study", "search.surrogate", "report.card")
    }
    assert own_imports("front.front") >= {"front.pareto", "errors", "nouns.trial"}
    assert own_imports("errors") == own_imports("environment") == set()


def test_no_arrow_between_rooms_runs_back_up_and_there_is_no_circle():
    done = subprocess.run(
        [sys.executable, str(PACKAGE.parent / "bench" / "import_graph.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rooms = {line.split()[0] for line in done.stdout.splitlines() if " -> " in line}
    assert rooms == {room(name) for name in MODULES}
    arrows = {(room(name), room(other)) for name in MODULES for other in own_imports(name)}
    assert f" {sum(a != b for a, b in arrows)} arrows, 0 back up." in done.stdout


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_in_its_place_only(package):
    users = {
        name
        for name, tree in TREES.items()
        for statement in run_time_imports(tree)
        if any(target.split(".")[0] == package for target in targets(statement))
    }
    assert [name for name in sorted(users) if not below(name, HEAVY[package])] == []


def test_nothing_of_ours_is_imported_inside_a_function():
    inside = [
        f"{name}:{statement.lineno}"
        for name, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for statement in run_time_imports(function)
        if any(own(target) is not None for target in targets(statement))
    ]
    assert inside == []


def test_every_module_that_is_imported_by_its_text_exists():
    # `lazy("recycler.export")` and tables of "recycler.search.nehvi:Nehvi" escape the rule above
    texts = {
        node.value
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"recycler(\.\w+)+(:\w+)?", node.value)
    } - {"recycler.json"}
    groups = {"samplers", "merge_methods", "evaluators", "executors"}
    for text in sorted(texts):
        module, _, attribute = text.removeprefix("recycler.").partition(":")
        if module in groups:
            continue
        assert module in SOURCES, text
        names = {getattr(node, "name", "") for node in TREES[module].body}
        assert not attribute or attribute in names, text


# --- what starting costs ---


def child(*arguments):
    """Run a Python process; its standard output and its CPU time [s]."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    after = os.times()
    cpu = after.children_user + after.children_system
    return done.stdout, cpu - before.children_user - before.children_system


@pytest.mark.parametrize(
    "code",
    [
        "import recycler; recycler.__version__; dir(recycler)",
        "from recycler.cli.main import cli; cli(['--help'], standalone_mode=False)",
        "from recycler.cli.main import cli; cli(['run', '--help'], standalone_mode=False)",
    ],
)
def test_importing_recycler_and_asking_for_help_load_nothing_heavy(code):
    loaded = f"[name for name in {NEVER_FOR_HELP} if name in sys.modules]"
    out, _ = child("-c", f"import sys\n{code}\nprint({loaded})")
    assert out.splitlines()[-1] == "[]"


def test_help_answers_within_three_tenths_of_a_second_of_cpu():
    runs = [child("-m", "recycler", "--help") for _ in range(3)]
    assert "Usage:" in runs[0][0]
    assert min(cpu for _, cpu in runs) <= 0.3


def test_every_public_name_is_found_where_the_package_says():
    for name in recycler.__all__:
        found = getattr(recycler, name)
        assert found is not None
        assert name in dir(recycler)
        home = recycler._HOME[name]
        if found is not sys.modules.get("recycler.search"):  # once imported, it hides the function
            assert found.__module__ == home
    assert callable(recycler.search)
    with pytest.raises(AttributeError, match="'Studdy'"):
        getattr(recycler, "Studdy")  # noqa: B009


# --- the leaves ---


def test_the_tree_of_errors_in_the_docstring_is_the_tree_of_classes():
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    classes = [
        name
        for name, found in vars(errors).items()
        if inspect.isclass(found) and found is not errors.RecyclerError
    ]
    assert drawn == classes
    assert all(getattr(errors, name).__mro__[1] is errors.RecyclerError for name in classes)


def test_an_error_states_the_fact_and_then_the_next_action():
    error = errors.NotFound("no pool 'a'.", hint="add it.")
    assert (error.message, error.hint) == ("no pool 'a'.", "add it.")
    assert str(error) == "no pool 'a'.\n  hint: add it."
    assert str(errors.NotFound("no pool 'a'.")) == "no pool 'a'."


def test_every_kind_of_error_has_a_code_of_its_own():
    """The codes are written out here: programs rely on them, so none may change."""
    classes = {n: found for n, found in vars(errors).items() if n in CODES}
    assert {name: found.code for name, found in classes.items()} == CODES
    assert set(CODES) == {
        n for n, f in vars(errors).items() if inspect.isclass(f) and issubclass(f, Exception)
    }
    assert errors.NotFound("no pool 'a'.", hint="add it.").to_json() == {
        "error": "no pool 'a'.",
        "hint": "add it.",
        "code": "not-found",
    }


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.startswith("cli.") and name != "cli.main"]
)
def test_a_command_is_short(name):
    long = [
        f"{function.name}: {lines} lines"
        for function in TREES[name].body
        if isinstance(function, ast.FunctionDef)
        and function.decorator_list
        and (lines := code_lines(function)) > 15
    ]
    assert long == []


def test_every_error_that_is_raised_has_a_hint():
    classes = {n for n, found in vars(errors).items() if inspect.isclass(found)}
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in classes
        and not any(keyword.arg == "hint" for keyword in node.keywords)
    ]
    assert bare == []


def test_the_environment_is_set_where_the_user_has_not_set_it(monkeypatch):
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment.prepare()
    expected = {**environment.DEFAULTS, "OMP_NUM_THREADS": "7"}
    assert {name: os.environ[name] for name in environment.DEFAULTS} == expected


def test_an_assertion_states_the_invariant_of_ours_that_it_guards():
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and node.msg is None
    ]
    assert bare == []


@pytest.mark.parametrize("name", [name for name in MODULES if not below(name, FROZEN)])
def test_functions_are_short_enough_to_be_read_at_once(name):
    long = [
        f"{function.name}: {lines} lines"
        for function in ast.walk(TREES[name])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := code_lines(function)) > 50
    ]
    assert long == []


def code_lines(function):
    """Lines of a function from its first statement to its last, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("name", ["search.simplex", "search.warm", "search.samplers"])
def test_a_module_below_a_package_with_content_can_be_imported_first(name):
    # importing it runs search/__init__ first, which imports it again: the one possible cycle
    said, _ = child("-c", f"import recycler.{name} as found; print(found.__name__)")
    assert said.strip() == f"recycler.{name}"
