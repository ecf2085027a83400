"""A person's whole way on the page: from folders to a downloaded model that transformers loads."""

import re
import tarfile

import pytest
import services
import toy
import yaml


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("way")
    folders = toy.drawer(root / "drawer", n=3)
    table = yaml.safe_load(toy.study_file(root, folders).read_text(encoding="utf-8"))
    made = services.Service(
        root, f"sqlite:///{root}/ledger.db", evaluators={"toy": table["evaluator"]}
    )
    made.folders = folders
    yield made
    made.close()


def shown(page):
    """Names of the trials in the table."""
    return page.locator("#trials tbody tr a").all_inner_texts()


def submit(page, service, evaluations):
    """Register the folders, scout them, and start a study on two tasks; the third is held out."""
    page.goto(f"{service.url}/pools")
    page.get_by_label("Name").fill("drawer")
    page.get_by_label("Checkpoint folders").fill("\n".join(map(str, service.folders)))
    page.get_by_role("button", name="Register").click()
    page.get_by_text("3 checkpoints can be merged").wait_for()
    page.get_by_role("link", name="New study").last.click()
    page.get_by_label("Name of the study").fill("way")
    page.get_by_label("Tasks from").select_option("toy")
    rows = page.locator("tr.objective")
    while rows.count() < 3:
        page.get_by_role("button", name="Add an objective").click()
    tasks = (("text", "bits_per_byte"), ("choice", "acc"), ("word", "exact_match"))
    for row, (task, metric) in enumerate(tasks):
        rows.nth(row).get_by_label("task").fill(task)
        rows.nth(row).get_by_label("metric").fill(metric)
    rows.nth(2).get_by_label("role").select_option("held_out")
    page.get_by_label("Evaluations").fill(str(evaluations))
    page.get_by_label("Sampler").select_option("dirichlet")
    for split, items in (("Dev", "12"), ("Select", "12"), ("Test", "16")):
        page.get_by_label(f"{split} items").fill(items)
    page.get_by_text("The document is complete").wait_for()
    page.get_by_role("button", name="Scout").click()
    page.locator("#scouting table.matrix").wait_for(timeout=90_000)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/studies/way", timeout=90_000)


def brush(page, board, start, end):
    """Drag over a board, from one share of its size to another."""
    canvas = page.locator(f"{board} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=8)
    page.mouse.up()


def test_from_folders_to_a_model_that_loads(service, watched, tmp_path):
    page = watched.page
    watched.expected.append("floor=choice%3D2")  # which no member meets: an answer 404
    submit(page, service, evaluations=12)
    watch(page)
    watched.looked("front")
    explore(page, service)
    number = wish(page)
    watched.looked("front-evaluated")
    page.locator(f"#trials tr[data-trial='{number}'] a").click()
    page.locator("body[data-page='merge'][data-ready]").wait_for()
    merge(page, watched)
    load(page, tmp_path)


def watch(page):
    """The page follows the run without a reload: trials come, then the front, then test scores."""
    page.locator("#trials tr[data-trial='0']").wait_for(timeout=90_000)
    page.evaluate("window.unloaded = false")  # a reload would lose it
    page.locator("#status.complete").wait_for(timeout=120_000)
    page.wait_for_function(
        "document.querySelector('#splits [aria-checked=true]')?.textContent === 'test'"
    )
    assert page.evaluate("window.unloaded") is False
    page.locator("#decision .verdict").wait_for()
    page.locator("#volume .main-svg").first.wait_for()


def explore(page, service):
    """A brush filters table and address; a click on a split and a link to the view keep it."""
    everything = len(shown(page))
    page.locator("#splits").get_by_role("radio", name="dev").click()
    page.locator("#warning").get_by_text("optimistic").wait_for()
    brush(page, "#scatter", (0.45, 0.05), (0.97, 0.6))
    page.wait_for_function(f"document.querySelectorAll('#trials tbody a').length < {everything}")
    kept = shown(page)
    page.wait_for_function("location.search.includes('r.text')")
    low, high = (page.locator(f"#ranges [data-end='text|{end}']").input_value() for end in (0, 1))
    bounds = float(low or "-inf"), float(high or "inf")
    found = service.get("studies/way/explorer")["trials"]
    inside = {
        name
        for name, text in zip(found["name"], found["scores"]["dev"]["text"]["mean"], strict=True)
        if text is not None and bounds[0] - 1e-3 <= text <= bounds[1] + 1e-3
    }
    assert set(kept) <= inside
    assert page.locator("#count").inner_text() == f"{len(kept)} of {everything} trials"
    page.goto(page.url)  # a link to the view
    page.locator("body[data-ready]").wait_for()
    assert shown(page) == kept
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(f"document.querySelectorAll('#trials tbody a').length == {everything}")
    page.locator("#trials th button", has_text="text").click()
    scores = page.locator("#trials tbody tr td:nth-child(3)").all_inner_texts()
    values = [float(text.split()[0]) for text in scores if text[0].isdigit()]
    assert values == sorted(values), "lower is better, so the least comes first"
    page.locator("#splits").get_by_role("radio", name="test").click()


def wish(page):
    """Sliders and floors move the pick; what is predicted is evaluated and appears live."""
    take = page.locator("#recommended a")
    page.locator("#w-text").focus()
    page.keyboard.press("Home")  # the weight 0: only `choice` counts
    page.wait_for_function("!document.querySelector('#recommended.pending')")
    page.wait_for_function("location.search.includes('w.text=0')")
    best = take.inner_text()
    page.locator("#f-choice").fill("2")
    page.get_by_text("no member of the front meets").wait_for()
    page.locator("#f-choice").fill("0")
    take.wait_for()
    assert take.inner_text() == best, "a floor that all members meet changes nothing"
    page.wait_for_function("location.search.includes('f.choice=0')")
    for share in range(12):  # a preference whose best merge nobody scored
        page.locator("#w-text").fill(str(share / 4))
        page.wait_for_function("!document.querySelector('#expected.pending')")
        if page.locator("#evaluate").count():
            break
    page.locator("#evaluate").click()
    page.locator("#asked", has_text="Queued as").wait_for()
    row = page.locator("#trials tbody tr", has=page.get_by_role("link", name=re.compile("^try")))
    row.wait_for(timeout=90_000)  # it appears without a reload
    page.locator("#asked", has_text="is scored").wait_for(timeout=90_000)
    page.wait_for_timeout(500)
    return page.evaluate(
        "[...document.querySelectorAll('#trials tbody tr')]"
        ".find(row => row.querySelector('a')?.textContent.startsWith('try')).dataset.trial"
    )


def merge(page, watched):
    """Compare it item by item, let it answer a prompt, export it with a proof."""
    page.locator("#items .item pre").first.wait_for()
    page.locator("#task").select_option("choice")
    page.locator("#every").check()
    page.get_by_text("choice items differ").wait_for()
    assert page.locator("#items .item .sides > div").count() % 2 == 0
    page.get_by_label("A prompt").fill("<b>abc</b>:")
    page.get_by_label("Longest answer").fill("4")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator("#answers pre").nth(1).wait_for(timeout=90_000)
    assert "merge_method: linear" in page.locator("#recipes").inner_text()
    page.get_by_role("button", name="Export", exact=True).click()
    page.locator("#exports .good, #exports .error").wait_for(timeout=90_000)
    said = page.locator("#exports").inner_text()
    assert "have the digest of the merge that was scored" in said
    watched.looked("merge")


def load(page, tmp_path):
    """The download is an ordinary folder for transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with page.expect_download() as waiting:
        page.get_by_role("link", name=re.compile("^download")).click()
    file = tmp_path / "merge.tar"
    waiting.value.save_as(file)
    with tarfile.open(file) as packed:
        packed.extractall(tmp_path / "got", filter="data")
    (config,) = (tmp_path / "got").rglob("config.json")
    model = AutoModelForCausalLM.from_pretrained(config.parent)
    tokenizer = AutoTokenizer.from_pretrained(config.parent)
    ids = model.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=2)
    assert ids.shape[1] >= 4
