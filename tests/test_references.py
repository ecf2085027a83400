"""References: models and recipes of the user's, scored on the same items as the merges."""

import json
import pickle
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import lmtasks
import pytest
import toy
import yaml
from pools import recipe_of
from test_kill import COMMAND, kill, rows, start
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint, InvalidConfig, Mismatch, NotFound, RecyclerError
from recycler.evaluate.measure import model_digests
from recycler.execute.scorer import MergeScorerFactory
from recycler.front.compare import compare, items_of
from recycler.merge.resident import load_model
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job, Kind
from recycler.report.card import model_card
from recycler.report.page import html_page
from recycler.report.tables import front_table
from recycler.report.text import console, front
from recycler.report.volume import trace
from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace
from recycler.watching import Watcher

PAIRS = 40  # merges of the other tokenizer: half the tokens of a text are pairs of letters


def pairing_tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary of its own: bytes in reverse order, and pairs of the letters of the tasks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    pairs = [(a, b) for a in "abcdefgh" for b in "abcdefgh"][:PAIRS]
    words = ["<s>", "</s>", "<pad>", *alphabet, *(a + b for a, b in pairs)]
    raw = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=pairs))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special, model_max_length=128)


def production(folder: Path) -> Path:
    """A bf16 Qwen2 with another vocabulary, another width and another tokenizer."""
    tokenizer = pairing_tokenizer()
    toy.torch.manual_seed(99)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    made = Qwen2ForCausalLM(Qwen2Config(**shape, **special, max_position_embeddings=128))
    made.to(toy.torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder_decoder(seed: int, vocabulary: int) -> T5ForConditionalGeneration:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    toy.torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **shape, **special))


def study_file(root: Path, folders: list[Path], references: list[dict], **search) -> Path:
    """The toy study with references."""
    file = toy.study_file(root, folders, **{"evaluations": 2, "greedy": False, **search})
    table = yaml.safe_load(file.read_text())
    if references:
        table["references"] = references
    file.write_text(yaml.safe_dump(table, sort_keys=False))
    return file


def run(root: Path, file: Path) -> Study:
    workspace = Workspace(str(root / "ledger.db"))
    return Study(submit(workspace, file).name, workspace).run()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A GPT-2 pool whose study has four references of every kind, run to its end."""
    root = tmp_path_factory.mktemp("references")
    folders = toy.drawer(root / "drawer", n=3, kind="gpt2")
    production(root / "models" / "prod")
    mix = {
        "merge_method": "linear",
        "models": [
            {"model": str(folders[1]), "parameters": {"weight": 3}},
            {"model": str(folders[0]), "parameters": {"weight": 1}},
        ],
    }
    (root / "mix.yaml").write_text(yaml.safe_dump(mix))
    references = [
        {"name": "production", "path": "models/prod"},
        {"name": "again", "path": str(folders[1])},
        {"name": "plain", "weights": {f"ckpt-{i}": 1 / 3 for i in range(3)}},
        {"name": "mk", "recipe": "mix.yaml"},
    ]
    study = run(root, study_file(root, folders, references))
    return root, folders, references, study


def by_name(study: Study) -> dict:
    return {trial.name: trial for trial in study.trials}


def test_references_are_scored_on_all_splits_like_baselines_and_cost_no_budget(world) -> None:
    _, _, _, study = world
    results, trials = study.results, by_name(study)
    assert results.status["status"] == "complete"
    assert [t.name for t in results.references] == [
        "reference:production",
        "reference:again",
        "uniform",  # the same merge, so the same trial
        "reference:mk",
    ]
    for name in ("reference:production", "reference:again", "reference:mk"):
        assert trials[name].kind == Kind.REFERENCE
        assert trials[name] in results.baselines
        sizes = {s: e.scores["text"].items for s, e in trials[name].evaluations.items()}
        assert sizes == {"dev": 12, "select": 12, "test": 16}
        assert set(trials[name].means("test")) == {"text", "choice", "word"}
        single = results.outcomes(trials["single:ckpt-0"], "test")["text"]
        assert results.outcomes(trials[name], "test")["text"].ids == single.ids
    assert results.front_json()["evaluations"] == 2
    order = [t.name for t in study.trials]
    assert order[:6] == [
        *(f"single:ckpt-{i}" for i in range(3)),
        "reference:production",  # a model that can't be loaded is told before merges are paid for
        "reference:again",
        "uniform",
    ]
    assert order.index("reference:mk") < order.index("search 0")


def test_a_watcher_sees_the_hypervolume_of_merges_alone_as_the_report_does(world) -> None:
    study = world[3]
    seen = Watcher(study.workspace.store, study.name).look().hypervolume
    assert seen == pytest.approx(trace(study.results))


def test_a_reference_with_a_checkpoints_bytes_has_exactly_its_scores(world) -> None:
    trials = by_name(world[3])
    again, single = trials["reference:again"], trials["single:ckpt-1"]
    for split in ("dev", "select", "test"):
        assert again.evaluations[split].scores == single.evaluations[split].scores
    assert again.digest == single.digest
    assert again.recipe.id != single.recipe.id


def test_a_recipe_file_is_the_merge_of_the_pool_that_it_describes(world) -> None:
    made = by_name(world[3])["reference:mk"].recipe
    assert made.weights == {"ckpt-1": 3.0, "ckpt-0": 1.0}
    assert made.settings == {"normalize": "weights"}


def test_another_architecture_is_scored_with_its_own_tokenizer_as_lm_eval_scores_it(
    world, monkeypatch
) -> None:
    root, _, _, study = world
    monkeypatch.chdir(root / "tasks")  # where lm_eval looks for the documents
    results, folder = study.results, root / "models" / "prod"
    trial = by_name(study)["reference:production"]
    ids = results.outcomes(trial, "test")["text"].ids
    found = lmtasks.theirs(folder, root / "tasks", "text", load_model(folder).eval(), ids)
    theirs = found["results"]["text"]["bits_per_byte,none"]
    assert trial.means("test")["text"] == pytest.approx(theirs, rel=1e-6)
    assert len(AutoTokenizer.from_pretrained(folder)) != toy.VOCABULARY


def test_a_reference_is_compared_by_its_name_and_answers_with_its_own_tokenizer(world) -> None:
    root, _, _, study = world
    found = compare(study.results, ["uniform", "production"])
    assert found.split == "test"
    assert not items_of(found, "choice").unkept
    asked, folder = "abc:", root / "models" / "prod"
    row = study.sample(["production", "uniform"], [asked], max_new_tokens=6).answers[0]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_model(folder).eval()
    ids = tokenizer(asked, return_tensors="pt").input_ids
    made = model.generate(ids, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
    assert row[0].text == tokenizer.decode(made, skip_special_tokens=True)
    assert row[1].name == "uniform"


def test_models_are_no_members_of_the_front_and_references_are_in_every_report(world) -> None:
    _, _, _, study = world
    results = study.results
    assert all(trial.is_merge for trial in results.front.trials)
    table = results.front_json()
    rows = {row["name"]: row for row in table["references"]}
    assert (rows["production"]["tokenizer"], rows["production"]["model"]) == ("own", True)
    assert (rows["again"]["tokenizer"], rows["again"]["same_weights_as"]) == ("pool", "ckpt-1")
    assert rows["plain"]["scored_as"] == "uniform"
    assert "reference:production" in {row["name"] for row in table["baselines"]}
    out = console()
    with out.capture() as printed:
        front(results, out)
    card, page = model_card(results, results.front.knee()), html_page(results)
    frame = front_table(results)
    assert "reference:production" in printed.get()
    assert "scores per token do not" in " ".join(printed.get().split())
    assert "reference:production" in page
    assert "scores per token do not" in page
    assert "reference:mk" in set(frame["name"])
    assert card


def test_a_model_is_not_exported_again(world, tmp_path) -> None:
    study = world[3]
    with pytest.raises(InvalidConfig, match="no merge: it is a model in a folder already"):
        study.export(by_name(study)["reference:production"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_references_model_changes_no_proposal_and_can_be_added_later(world, tmp_path) -> None:
    root, folders, references, study = world
    file = study_file(tmp_path, folders, [])
    plain = run(tmp_path, file)
    wanted = {t.name: t.recipe.id for t in study.trials if t.kind == "search"}
    assert {t.name: t.recipe.id for t in plain.trials if t.kind == "search"} == wanted
    before = {t.number: t for t in plain.trials}
    listed = [{**entry, "path": str(root / entry["path"])} for entry in references[:1]]
    later = run(tmp_path, study_file(tmp_path, folders, listed))
    after = {t.number: t for t in later.trials}
    assert {number: after[number] for number in before} == before
    assert [t.name for t in after.values() if t.number not in before] == ["reference:production"]
    assert later.results.front.trials == plain.results.front.trials
    # and taken away again
    gone = run(tmp_path, study_file(tmp_path, folders, []))
    assert gone.results.references == []
    assert "reference:production" not in {t.name for t in gone.results.baselines}


def test_a_plan_keeps_its_references_and_older_plans_have_none(world) -> None:
    plan = world[3].plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    older = plan.to_json()
    del older["references"]
    assert Plan.from_json(older) == replace(plan, references=())


def test_scores_are_never_shared_between_tokenizers_or_configs(world, tmp_path) -> None:
    """The same weights under another chat template or config are another reference."""
    root, _, _, study = world
    workspace, known = study.workspace, {t.recipe.id for t in study.trials}
    for name, file, text in (
        ("template", "chat_template.jinja", lmtasks.TEMPLATE),
        ("config", "generation_config.json", '{"repetition_penalty": 1.3}'),
    ):
        copy = production(tmp_path / name)
        (copy / file).write_text(text)
        at = root / f"{name}.yaml"
        table = yaml.safe_load((root / "study.yaml").read_text())
        table |= {"study": name, "references": [{"name": "production", "path": str(copy)}]}
        at.write_text(yaml.safe_dump(table))
        (entry,) = submit(workspace, at).references
        assert entry.recipe.id not in known
        assert entry.recipe.ingredients[0].fingerprint in {
            t.recipe.ingredients[0].fingerprint for t in study.trials
        }


@pytest.mark.parametrize(
    ("entry", "error", "told"),
    [
        ({"name": "a"}, InvalidConfig, "expected one of path, weights and recipe, found none"),
        ({"name": "a", "path": "b", "recipe": "c"}, InvalidConfig, "found path and recipe"),
        ({"name": "a", "path": "nowhere"}, NotFound, "nowhere is not a folder"),
        ({"name": "a", "path": "half"}, BrokenCheckpoint, "model.safetensors"),
        ({"name": "a", "path": "strange"}, RecyclerError, "reference 'a' at .*strange"),
        ({"name": "a", "weights": {"ckpt-9": 1.0}}, InvalidConfig, "no checkpoint 'ckpt-9'"),
        ({"name": "a", "weights": {"ckpt-0": 0.7}}, InvalidConfig, "sum to 0.7, expected 1"),
        ({"name": "ckpt-1", "weights": {"ckpt-0": 1}}, InvalidConfig, "'ckpt-1' is taken"),
        (
            {"name": "a", "recipe": "alien.yaml"},
            InvalidConfig,
            "none of the checkpoints of study",
        ),
        ({"name": "a", "recipe": "none.yaml"}, NotFound, "none.yaml"),
    ],
)
def test_wrong_references_are_refused_before_anything_is_written(
    world, tmp_path, entry, error, told
) -> None:
    _, folders, _, _ = world
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "half" / "model.safetensors").write_bytes(
        (folders[0] / "model.safetensors").read_bytes()[:5000]
    )
    toy.checkpoint(tmp_path / "strange", seed=8)
    config = json.loads((tmp_path / "strange" / "config.json").read_text())
    (tmp_path / "strange" / "config.json").write_text(json.dumps({**config, "model_type": "zap"}))
    alien = {"method": "linear", "checkpoints": [{"path": "strange", "weight": 1.0}]}
    (tmp_path / "alien.yaml").write_text(yaml.safe_dump(alien))
    workspace = Workspace(str(tmp_path / "ledger.db"))
    with pytest.raises(error, match=told) as refused:
        submit(workspace, study_file(tmp_path, folders, [entry]))
    assert refused.value.hint
    assert workspace.store.studies() == []
    if "ckpt-9" in told:
        assert "nearest: ckpt-" in refused.value.hint


def test_a_folder_that_changed_since_is_refused_before_the_run(world, tmp_path) -> None:
    _, folders, _, _ = world
    own = production(tmp_path / "prod")
    file = study_file(tmp_path, folders, [{"name": "production", "path": str(own)}])
    workspace = Workspace(str(tmp_path / "ledger.db"))
    study = Study(submit(workspace, file).name, workspace)
    (own / "chat_template.jinja").write_text("{{ 1 }}")
    with pytest.raises(Mismatch, match=r"reference 'production' at .* is not the one"):
        study.run()


def test_a_reference_without_a_head_ends_the_run_before_a_merge_is_paid_for(
    world, tmp_path
) -> None:
    """Its head would be drawn at random; without that reference the study goes on."""
    _, folders, _, _ = world
    toy.model("llama", 5, tied=False).model.save_pretrained(tmp_path / "headless")
    config = tmp_path / "headless" / "config.json"
    toy.tokenizer().save_pretrained(tmp_path / "headless")
    assert json.loads(config.read_text())["model_type"] == "llama"
    with pytest.raises(RecyclerError, match=r"lm_head\.weight") as told:
        run(tmp_path, study_file(tmp_path, folders, [{"name": "r", "path": "headless"}]))
    assert told.value.hint
    workspace = Workspace(str(tmp_path / "ledger.db"))
    assert {t.kind for t in workspace.store.trials("toy")} == {"single", "reference"}
    study = run(tmp_path, study_file(tmp_path, folders, []))
    assert study.status["status"] == "complete"
    (dropped,) = [t for t in study.trials if t.kind == "reference"]
    assert (dropped.state, dropped.failure.kind) == ("failed", "dropped")


def test_an_encoder_decoder_is_scored_in_a_worker_beside_merges_of_its_kind(tmp_path) -> None:
    """The scorer is made from what a worker on another machine gets; merges are as before after."""
    folders = [tmp_path / name for name in ("t5-a", "t5-b", "t5-other")]
    for seed, folder in enumerate(folders):
        encoder_decoder(seed, toy.VOCABULARY + PAIRS * (seed == 2)).save_pretrained(folder)
        (toy.tokenizer() if seed < 2 else pairing_tokenizer()).save_pretrained(folder)
    other = Checkpoint.open(folders[2], "other")
    recipe = Recipe.of_model("other", other.fingerprint(), model_digests(other.path))
    pool = Pool.open(folders[:2])
    evaluator = {"kind": "lm-eval", "tasks": str(toy.tasks(tmp_path / "tasks")), "batch_size": 8}
    objectives = Objectives((Objective("choice", "acc"), Objective("word", "exact_match")))
    items = {"dev": 10, "select": 10, "test": 10}
    factory = MergeScorerFactory(pool, objectives, evaluator, items, "", models={recipe.id: other})
    scorer = pickle.loads(pickle.dumps(factory))()
    merge = recipe_of(pool, (0.5, 0.5), dtype="")
    jobs = [Job(i, r, "dev", ("choice", "word")) for i, r in enumerate((merge, recipe, merge))]
    before, found, after = (scorer(job) for job in jobs)
    assert before.outcomes == after.outcomes
    assert found.digest == other.fingerprint()
    assert found.outcomes["choice"].ids == before.outcomes["choice"].ids
    alone = replace(factory, pool=Pool.open(folders[2:]), models={})()
    one = Recipe("linear", (Ingredient(other.fingerprint(), "t5-other", 1.0),), "")
    assert alone(Job(0, one, "dev", ("choice", "word"))).outcomes == found.outcomes
    (folders[2] / "model.safetensors").touch()
    (folders[2] / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BrokenCheckpoint, match="config or tokenizer changed"):
        scorer(jobs[1])


@pytest.mark.system
def test_killed_while_a_reference_runs_it_resumes_and_ends_the_same(world, tmp_path) -> None:
    root, folders, references, study = world
    listed = [{**entry, "path": str(root / entry["path"])} for entry in references[:1]]
    study_file(tmp_path, folders, listed, evaluations=0)
    first, wait = start(tmp_path), time.monotonic() + 120
    query = "SELECT number FROM recycler_trials WHERE kind = 'reference' AND state = 'running'"
    while not rows(tmp_path, query):
        assert first.poll() is None
        assert time.monotonic() < wait
        time.sleep(0.005)
    kill(first)
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["baselines"]}
    again = by_name(study)["reference:production"]
    for split in ("dev", "select", "test"):
        means = {name: score["mean"] for name, score in found[again.name][split].items()}
        assert means == again.means(split)
