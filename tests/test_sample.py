"""Samples: answers of merges in memory are those of transformers' `generate` on averaged weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import toy
import transformers
from click.testing import CliRunner
from studies import NAME, finished

from recycler.checkpoints.pool import Pool
from recycler.cli.main import cli
from recycler.errors import InvalidConfig, Mismatch, NotFound
from recycler.execute.prompts import Prompt, prompts_of
from recycler.execute.sample import Sampling, sample
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Kind, Trial

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {
    "vocab_size": toy.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **SPECIAL,
}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=toy.VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "gemma2": lambda: transformers.Gemma2Config(**SMALL, head_dim=8, tie_word_embeddings=False),
    "t5": lambda: transformers.T5Config(
        vocab_size=toy.VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    ),
}
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
PROMPTS = ("abc:", "def gh\nxy")
GREEDY = Sampling(max_new_tokens=8)


@dataclass(frozen=True)
class Drawer:
    pool: Pool
    folders: list[Path]
    kind: type

    def trial(self, weights, number=7, **changes) -> Trial:
        ingredients = [
            Ingredient(c.fingerprint(), c.name, w)
            for c, w in zip(self.pool.checkpoints, weights, strict=True)
        ]
        recipe = Recipe(method="linear", ingredients=tuple(ingredients), dtype="")
        return Trial(number=number, kind=Kind.SEARCH, name="search 1", recipe=recipe, **changes)

    def averaged(self, weights):
        """The model with the weighted mean of the checkpoints' tensors, rounded once."""
        models = [self.kind.from_pretrained(f, dtype="auto") for f in self.folders]
        states = [m.state_dict() for m in models]
        mixed = {  # before any is written: tied tensors are there twice
            name: sum(w * s[name].double() for w, s in zip(weights, states, strict=True))
            for name in states[0]
        }
        models[0].load_state_dict({n: t.to(states[0][n].dtype) for n, t in mixed.items()})
        return models[0].eval()


def drawer_of(root: Path, name: str, dtype: str, template: str = "") -> Drawer:
    config = CONFIGS[name]()
    kind = transformers.AutoModelForCausalLM
    if name == "t5":
        kind = transformers.AutoModelForSeq2SeqLM
    folders = [root / "a", root / "b"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        made = kind.from_config(config)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        made.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer = toy.tokenizer()
        if template:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    return Drawer(Pool.open(folders), folders, kind)


def theirs(drawer, weights, texts, special=True, **settings):
    """Answers by plain transformers: (text, number of tokens)."""
    model, tokenizer = drawer.averaged(weights), toy.tokenizer()
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=special, return_tensors="pt").input_ids
        made = model.generate(ids, do_sample=False, **settings)[0]
        made = made[1 if model.config.is_encoder_decoder else ids.shape[1] :]
        found.append((tokenizer.decode(made, skip_special_tokens=True), len(made)))
    return found


def given(found) -> list[str]:
    assert all(len({answer.given for answer in row}) == 1 for row in found.answers)
    return [row[0].given for row in found.answers]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpt2", "float32"), ("qwen2", "bfloat16"), ("gemma2", "float32"), ("t5", "float32")],
)
def test_answers_are_those_of_generate_on_the_averaged_weights(tmp_path, name, dtype):
    drawer = drawer_of(tmp_path, name, dtype)
    rows = [(0.25, 0.75), (1.0, 0.0)]
    trials = [drawer.trial(row, number) for number, row in enumerate(rows)]
    found = sample("s", drawer.pool, trials, prompts_of(PROMPTS), GREEDY)
    assert given(found) == list(PROMPTS)
    assert found.template == "no chat template: the tokenizer has none"
    for k, row in enumerate(rows):
        expected = theirs(drawer, row, PROMPTS, max_new_tokens=8)
        assert [(a[k].text, a[k].tokens) for a in found.answers] == expected
        assert all(a[k].ended or a[k].tokens == 8 for a in found.answers)
    assert found.answers[0][0].text != found.answers[0][1].text


@pytest.fixture(scope="module")
def chatty(tmp_path_factory) -> Drawer:
    return drawer_of(tmp_path_factory.mktemp("chatty"), "qwen2", "float32", TEMPLATE)


def test_a_chat_template_is_applied_where_there_is_one_and_it_is_said(chatty):
    trial = chatty.trial((0.5, 0.5))
    turns = ({"role": "system", "content": "short"}, {"role": "user", "content": "hi"})
    prompts = [Prompt("hi"), Prompt("hi", turns)]
    found = sample("s", chatty.pool, [trial], prompts, GREEDY)
    assert given(found) == [
        "<s>user: hi\n<s>assistant:",
        "<s>system: short\n<s>user: hi\n<s>assistant:",
    ]
    assert "applied: the tokenizer has one (unlike the study's tasks)" in found.template
    expected = theirs(chatty, (0.5, 0.5), given(found), special=False, max_new_tokens=8)
    assert [(row[0].text, row[0].tokens) for row in found.answers] == expected
    plain = sample("s", chatty.pool, [trial], prompts[:1], Sampling(max_new_tokens=8, chat=False))
    assert given(plain) == ["hi"]
    with pytest.raises(InvalidConfig, match="messages"):
        sample("s", chatty.pool, [trial], prompts, Sampling(chat=False))


def test_a_model_that_is_no_merge_answers_with_its_own_tokenizer(chatty, tmp_path):
    other = drawer_of(tmp_path, "t5", "float32")
    trials = [chatty.trial((0.5, 0.5)), other.trial((0.0, 1.0), 9)]
    models = {trials[1].recipe.id: other.folders[1]}
    prompts = prompts_of(PROMPTS)
    found = sample("s", chatty.pool, trials, prompts, GREEDY, models=models)
    assert [row[1].given for row in found.answers] == list(PROMPTS)
    assert all(row[0].given.startswith("<s>user: ") for row in found.answers)
    assert found.template.endswith("; b: no chat template: the tokenizer has none")
    expected = theirs(other, (0.0, 1.0), PROMPTS, max_new_tokens=8)
    assert [(row[1].text, row[1].tokens) for row in found.answers] == expected


def test_sampled_answers_follow_the_seed_and_not_the_other_prompts(chatty):
    trial, prompts = chatty.trial((0.5, 0.5)), prompts_of(PROMPTS)

    def texts(asked, seed):
        way = Sampling(temperature=1.5, seed=seed, max_new_tokens=8)
        rows = sample("s", chatty.pool, [trial], asked, way).answers
        return [row[0].text for row in rows]

    torch.manual_seed(1)
    first = texts(prompts, 3)
    torch.manual_seed(2)
    assert texts(prompts, 3) == first
    assert texts(prompts[:1], 3) == first[:1]
    assert texts(prompts, 4) != first


def test_settings_of_the_folder_hold_except_for_the_choice_of_tokens(chatty, tmp_path):
    settings = transformers.GenerationConfig(
        do_sample=True, temperature=9.0, top_k=5, num_beams=3, eos_token_id=[2, 40], pad_token_id=0
    )
    settings.save_pretrained(tmp_path)
    file = chatty.folders[0] / "generation_config.json"
    before = file.read_text()
    file.write_text((tmp_path / "generation_config.json").read_text())
    try:
        pool, prompts = Pool.open(chatty.folders), prompts_of([f"{i}:" for i in range(6)])
        way = Sampling(max_new_tokens=32, chat=False)
        found = sample("s", pool, [chatty.trial((0.5, 0.5))], prompts, way)
    finally:
        file.write_text(before)
    texts = [p.text for p in prompts]
    ends = {"eos_token_id": [2, 40], "max_new_tokens": 32}
    expected = theirs(chatty, (0.5, 0.5), texts, **ends)
    assert [(row[0].text, row[0].tokens) for row in found.answers] == expected


def test_what_does_not_fit_is_refused(chatty, tmp_path):
    trial = chatty.trial((0.5, 0.5))
    with pytest.raises(InvalidConfig, match="prompt 2 has 70 tokens; the model takes at most 64"):
        sample("s", chatty.pool, [trial], prompts_of(["a", "b" * 70]), Sampling(chat=False))
    cut = sample("s", chatty.pool, [trial], prompts_of(["b" * 60]), Sampling(chat=False))
    assert cut.answers[0][0].tokens <= 4
    other = chatty.trial((0.5, 0.5), digest="sha256:00")
    with pytest.raises(Mismatch, match="trial 7 merges to"):
        sample("s", chatty.pool, [other], prompts_of(["a"]), GREEDY)
    plain = drawer_of(tmp_path, "gpt2", "float32")
    with pytest.raises(InvalidConfig, match="no chat template"):
        sample("s", plain.pool, [plain.trial((1, 0))], prompts_of("a"), Sampling(chat=True))


def test_prompts_are_lines_or_json_objects(tmp_path):
    text, table = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_text('one\n\n{"prompt": 1}\n')
    assert prompts_of(["zero"], text) == [Prompt("zero"), Prompt("one"), Prompt('{"prompt": 1}')]
    turns = [{"role": "user", "content": "hi"}]
    table.write_text(json.dumps({"prompt": "a\nb"}) + "\n" + json.dumps({"messages": turns}))
    assert prompts_of([], table) == [Prompt("a\nb"), Prompt("hi", tuple(turns))]
    for wrong in ('{"prompt": 1}', "[]", "{", '{"messages": []}', '{"messages": [{"role": "a"}]}'):
        table.write_text('{"prompt": "a"}\n' + wrong)
        with pytest.raises(InvalidConfig, match=r"p\.jsonl, line 2") as refused:
            prompts_of([], table)
        assert "messages" in refused.value.hint
    with pytest.raises(NotFound, match="can't be read"):
        prompts_of([], tmp_path / "none.txt")
    with pytest.raises(InvalidConfig, match="empty"):
        prompts_of([" "])


def test_the_command_shows_answers_side_by_side_and_writes_no_folder(tmp_path_factory, tmp_path):
    world = finished(tmp_path_factory.getbasetemp())
    before = sorted(p for p in world.root.rglob("*") if p.is_dir())
    given = ["--store", world.store, "sample", NAME, "uniform", "0", "-p", "abc", "-p", "de>"]
    given += ["--max-new-tokens", "4"]
    shown = CliRunner().invoke(cli, given)
    assert shown.exception is None
    assert "trial 3 (uniform)" in shown.output
    assert "greedy, at most 4 tokens" in shown.output
    table = json.loads(CliRunner().invoke(cli, [*given, "--json"]).stdout)
    assert [row["prompt"] for row in table["prompts"]] == ["abc", "de>"]
    study = world.open()
    again = study.sample(["uniform", 0], ["abc", "de>"], max_new_tokens=4)
    assert again.to_json() == table
    assert sorted(p for p in world.root.rglob("*") if p.is_dir()) == before
    with pytest.raises(InvalidConfig, match="temprature"):
        study.sample([0], ["a"], temprature=1.0)
