"""Names to implementations: our table first, then installed packages, then a helpful refusal."""

import math

import pytest

from recycler.errors import InvalidConfig
from recycler.registry import resolve

TABLE = {"linear": math.fsum, "lazy": "json:dumps", "nsga2": "recycler.no_such_module:x"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A third party's package, as an installer leaves it on the path."""
    (tmp_path / "third_party.py").write_text("def soup(tensors):\n    return 'soup'\n")
    about = tmp_path / "third_party-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[recycler.merge_methods]\nsoup = third_party:soup\nlinear = third_party:soup\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_name_of_our_table_is_that_object():
    assert resolve("merge method", "linear", TABLE) is math.fsum


def test_a_string_of_our_table_is_imported_when_asked_for_and_no_other_is():
    assert resolve("merge method", "lazy", TABLE)({"a": 1}) == '{"a": 1}'
    with pytest.raises(ModuleNotFoundError):
        resolve("merge method", "nsga2", TABLE)


def test_an_installed_package_adds_names_to_its_kind_only(installed):
    assert resolve("merge method", "soup", TABLE)([]) == "soup"
    with pytest.raises(InvalidConfig, match="'soup' is not a sampler"):
        resolve("sampler", "soup", TABLE)


def test_an_installed_package_cannot_replace_one_of_ours(installed):
    assert resolve("merge method", "linear", TABLE) is math.fsum


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(installed):
    with pytest.raises(InvalidConfig, match="'linaer' is not a merge method") as refused:
        resolve("merge method", "linaer", TABLE)
    assert refused.value.hint == "did you mean 'linear'? Known: lazy, linear, nsga2, soup."


def test_a_name_near_to_none_gets_no_guess():
    with pytest.raises(InvalidConfig) as refused:
        resolve("sampler", "zzzzzz", TABLE)
    assert refused.value.hint == "Known: lazy, linear, nsga2."
