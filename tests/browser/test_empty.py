"""The page with nothing in the ledger: each view says what the first step is."""

import pytest
import services
import toy


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("empty")
    made = services.Service(root, f"sqlite:///{root}/ledger.db")
    yield made
    made.close()


def test_every_view_of_an_empty_ledger_says_what_to_do(service, watched):
    page = watched.page
    page.goto(f"{service.url}/")
    page.get_by_text("No study yet").wait_for()
    watched.looked("empty-studies")
    page.get_by_role("navigation").get_by_role("link", name="Pools").click()
    page.get_by_text("No pool yet").wait_for()
    watched.looked("empty-pools")
    page.get_by_role("link", name="Operations").click()
    page.get_by_text("Nothing here.").wait_for()
    page.get_by_text("No study runs.").wait_for()
    watched.looked("empty-operations")
    page.get_by_role("navigation").get_by_role("link", name="New study").click()
    page.get_by_role("heading", name="New study").wait_for()
    watched.looked("empty-new")


def test_a_page_that_is_not_there_says_so(service, watched):
    watched.expected.append("404")
    for path in ("/studies/none", "/pools/none", "/nowhere"):
        answer = watched.page.goto(f"{service.url}{path}")
        assert answer.status == 404
        assert "none" in watched.page.content() or "nowhere" in watched.page.content()


def test_the_keyboard_reaches_everything(service, watched):
    page = watched.page
    page.goto(f"{service.url}/")
    page.get_by_text("No study yet").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Studies", "New study", "Pools", "Operations"} <= reached


def test_the_theme_is_kept(service, watched):
    page = watched.page
    page.goto(f"{service.url}/")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_folders_that_can_not_be_merged_are_refused_with_a_reason(service, watched, tmp_path):
    watched.expected.append("422")
    one = toy.checkpoint(service.root / "one")
    other = toy.checkpoint(service.root / "other", kind="gpt2")
    page = watched.page
    page.goto(f"{service.url}/pools")
    page.get_by_label("Name").fill("odd")
    page.get_by_label("Checkpoint folders").fill(f"{one}\n{other}")
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("can't be merged").wait_for()
    watched.looked("odd-pool")
    page.get_by_label("Checkpoint folders").fill(f"{one}\n/etc")
    page.get_by_role("button", name="Check", exact=True).click()
    watched.expected.append("403")
    page.get_by_role("alert").wait_for()
    assert "/etc" in page.get_by_role("alert").inner_text()
