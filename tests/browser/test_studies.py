"""From folders to a running study by the page alone."""

import pytest
import services
import toy
import yaml
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    folders = toy.drawer(root / "drawer", n=3)
    table = yaml.safe_load(toy.study_file(root, folders).read_text(encoding="utf-8"))
    made = services.Service(
        root, f"sqlite:///{root}/ledger.db", evaluators={"toy": table["evaluator"]}
    )
    made.folders = folders
    yield made
    made.close()


def test_register_scout_bill_start_and_stop(service, watched):
    page = watched.page
    page.goto(f"{service.url}/pools")
    page.get_by_label("Name").fill("drawer")
    page.get_by_label("Checkpoint folders").fill("\n".join(map(str, service.folders)))
    page.get_by_role("button", name="Register").click()
    page.get_by_role("heading", name="drawer").wait_for()
    page.get_by_text("3 checkpoints can be merged").wait_for()
    page.get_by_role("button", name="Deep check").click()
    page.get_by_text("Cosines of the task vectors").wait_for()

    page.get_by_role("link", name="New study").last.click()
    page.get_by_label("Name of the study").fill("mine")
    page.get_by_label("Tasks from").select_option("toy")
    rows = page.locator("tr.objective")
    for row, (task, metric) in enumerate((("text", "bits_per_byte"), ("choice", "acc"))):
        rows.nth(row).get_by_label("task").fill(task)
        rows.nth(row).get_by_label("metric").fill(metric)
    page.get_by_label("Evaluations").fill("-1")
    page.get_by_text("search.evaluations").wait_for()
    assert page.get_by_label("Evaluations").get_attribute("aria-invalid") == "true"
    page.get_by_label("Evaluations").fill("400")
    for split in ("Dev", "Select", "Test"):
        page.get_by_label(f"{split} items").fill("12")
    page.get_by_text("The document is complete").wait_for()
    page.get_by_role("button", name="Scout").click()
    page.locator("#scouting table.matrix").wait_for(timeout=90_000)
    page.get_by_role("button", name="What will it cost?").click()
    page.locator("#billing table").wait_for(timeout=90_000)
    watched.looked("new-study")

    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/studies/mine", timeout=90_000)
    page.get_by_role("navigation").get_by_role("link", name="Studies").click()
    page.locator(".status.running").wait_for(timeout=60_000)
    page.get_by_text("searching").first.wait_for(timeout=60_000)
    bar = page.get_by_role("progressbar", name="progress of mine", exact=True)
    now = bar.get_attribute("aria-valuenow")
    expect(bar).not_to_have_attribute("aria-valuenow", now, timeout=60_000)  # without a reload
    watched.looked("studies-running")
    page.get_by_role("link", name="Operations").click()
    page.get_by_role("button", name="Stop").first.click()
    watched.looked("operations-stop")
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    page.get_by_text("No study runs.").wait_for(timeout=60_000)
    page.goto(f"{service.url}/?text=mine&status=stopped&group=1")
    page.locator(".status.stopped").wait_for()
    assert page.get_by_label("Find").input_value() == "mine"
    page.goto(f"{service.url}/pools/drawer")
    page.locator("#scores table.matrix").wait_for()
    watched.looked("pool")
