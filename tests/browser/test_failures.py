"""Everything fails: a study whose merges can't be scored, a service that goes away."""

import pytest
import services
import toy
import yaml

FUNCTION = """
def score(model, tokenizer, split):
    raise ValueError("<b>boo</b> & no score")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("failing")
    (root / "exports").mkdir()
    (root / "exports" / "mine.py").write_text(FUNCTION, encoding="utf-8")
    made = services.Service(
        root,
        f"sqlite:///{root}/ledger.db",
        evaluators={"mine": {"kind": "python", "function": "mine:score"}},
    )
    yield made
    made.close()


def test_a_study_in_which_everything_fails_says_why(service, watched):
    folders = toy.drawer(service.root / "drawer", n=2)
    document = {
        "study": "failing",
        "pool": [{"name": f.name, "path": str(f)} for f in folders],
        "objectives": [{"name": "x", "direction": "max"}],
        "evaluator": {"name": "mine"},
        "search": {"evaluations": 3},
    }
    created = service.done(service.post("studies", document=document, start=True))
    service.wait(created["started"])
    page = watched.page
    page.goto(f"{service.url}/")
    page.get_by_role("link", name="failing").wait_for()
    assert "failed" in page.locator("#list").inner_text()
    watched.looked("failing-studies")
    page.get_by_role("link", name="Operations").click()
    page.get_by_role("cell", name="failing").first.wait_for()
    watched.looked("failing-operations")
    page.get_by_role("link", name="Studies").click()
    page.get_by_role("link", name="failing").click()
    page.get_by_role("heading", name="failing").wait_for()
    page.get_by_text("<b>boo</b> & no score").first.wait_for()  # as text, not as markup
    watched.looked("failing-front")


def test_a_trial_that_is_not_there_shows_the_error_alone(service, watched):
    """After the study above, in the same service."""
    watched.expected.append("404")
    page = watched.page
    page.goto(f"{service.url}/studies/failing/trials/99")
    page.get_by_role("alert").wait_for()
    assert "99" in page.get_by_role("alert").inner_text()
    assert (
        page.get_by_text("Loading").count() == 0
        or not page.get_by_text("Loading").first.is_visible()
    )
    assert not page.get_by_role("button", name="Export").is_visible()


def test_a_service_that_goes_away_is_missed_and_found_again(tmp_path, watched):
    watched.expected += ["ERR_CONNECTION", "ERR_INCOMPLETE", "net::"]
    gone = services.Service(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    page = watched.page
    page.goto(f"{gone.url}/pools")
    page.get_by_text("No pool yet").wait_for()
    port = int(gone.url.rpartition(":")[2])
    gone.kill()
    page.get_by_label("Name").fill("x")
    page.get_by_label("Checkpoint folders").fill(str(tmp_path))
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("The service does not answer.").wait_for()
    table = yaml.safe_load(gone.file.read_text(encoding="utf-8"))
    gone.file.write_text(yaml.safe_dump({**table, "port": port}), encoding="utf-8")
    gone.start()
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("The service does not answer.").wait_for(state="detached")
    gone.close()
