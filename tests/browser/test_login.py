"""Tokens on the page: log in, read only, log out."""

import pytest
import services
from playwright.sync_api import expect

from recycler.store.sql import SqlStore


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("locked")
    url = f"sqlite:///{root}/ledger.db"
    store = SqlStore(url)
    secrets = {name: store.access.create(name, scopes)[0] for name, scopes in USERS.items()}
    store.close()
    made = services.Service(root, url, tokens=True)
    made.http.headers["Authorization"] = f"Bearer {secrets['ann']}"
    made.secrets = secrets
    yield made
    made.close()


USERS = {"ann": ["read", "write"], "bob": ["read"]}


def enter(service, page, name):
    page.get_by_label("Token").fill(service.secrets[name])
    page.get_by_role("button", name="Log in").click()


def test_without_a_token_every_view_asks_for_one_and_leads_back(service, watched):
    watched.expected.append("401")
    page = watched.page
    page.goto(f"{service.url}/pools?x=1")
    page.get_by_label("Token").fill("rcy_wrong")
    watched.looked("login")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    enter(service, page, "ann")
    page.get_by_text("No pool yet").wait_for()
    assert page.url == f"{service.url}/pools?x=1"
    expect(page.get_by_role("button", name="Register")).to_be_enabled()
    assert page.locator("#read-only").count() == 0
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert service.secrets["ann"] not in str(cookie)
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    page.goto(f"{service.url}/")
    page.get_by_role("heading", name="Log in").wait_for()


def test_who_may_only_read_is_told_so_and_finds_buttons_off(service, watched):
    page = watched.page
    page.goto(f"{service.url}/")
    enter(service, page, "bob")
    page.get_by_text("No study yet").wait_for()
    page.goto(f"{service.url}/pools")
    page.get_by_text("Your token may read only").wait_for()
    button = page.get_by_role("button", name="Register")
    expect(button).to_be_disabled()
    assert button.get_attribute("title") == "Your token may read only."
    expect(page.get_by_role("button", name="Check", exact=True)).to_be_enabled()
    watched.looked("read-only")
