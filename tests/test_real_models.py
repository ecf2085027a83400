"""Merges of tiny random models of many architectures, held to transformers and to plain averages.

For each: a merge of weight 1 is the checkpoint's bytes, on disk and resident; half and half computes
what the average of the two loaded models computes, from the written folder and in the resident model.
"""

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers
from broken_pools import folder as toy_folder
from pools import folder_of, merge_to, merged_tensors, recipe_of
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from recycler.checkpoints import architecture
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint, Incompatible, NotFinite
from recycler.merge.layout import config_of, layout_of
from recycler.merge.resident import Resident, load_model
from recycler.merge.sources import Sources

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 8}
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def llava():
    vision = transformers.CLIPVisionConfig(**VISION, projection_dim=32)
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SIZES).to_dict(),
        vision_config=vision.to_dict(),
        image_token_index=5,
    )


def deepseek():
    return transformers.DeepseekV3Config(
        **{**EXPERTS, "num_key_value_heads": 4}, n_routed_experts=4, n_group=2, topk_group=1, kv_lora_rank=8,
        q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1,
        n_shared_experts=1,
    )  # fmt: skip


MODELS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**EXPERTS, num_experts=4),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**GROUPED, head_dim=8),
    "t5": lambda: transformers.T5Config(
        vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4
    ),
    "deepseek_v3": deepseek,
    "bert": lambda: transformers.BertConfig(**SIZES, max_position_embeddings=64, is_decoder=True),
    "llava": llava,
}  # fmt: skip
CLASSES = {
    "t5": "T5ForConditionalGeneration",
    "bert": "BertLMHeadModel",
    "llava": "LlavaForConditionalGeneration",
}
KEPT = "e_score_correction_bias"  # a buffer that is trained, in float32


def build(name, seed):
    torch.manual_seed(seed)
    kind = getattr(transformers, CLASSES[name]) if name in CLASSES else None
    model = kind(MODELS[name]()) if kind else AutoModelForCausalLM.from_config(MODELS[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(KEPT):
                buffer.add_(torch.rand_like(buffer) * 0.05)
    return model


@pytest.fixture(scope="module", params=[(n, "bfloat16" if i % 2 else "float32") for i, n in enumerate(MODELS)], ids=lambda p: "-".join(p))  # fmt: skip
def pool(request, tmp_path_factory):
    """Two models as `save_pretrained` writes them, the second one in shards with an index."""
    name, dtype = request.param
    root = tmp_path_factory.mktemp(name)
    for seed in range(2):
        model = build(name, seed).to(getattr(torch, dtype))
        if name == "deepseek_v3":
            for key, buffer in model.named_buffers():
                if key.endswith(KEPT):
                    buffer.data = buffer.data.float()
        model.save_pretrained(root / f"m{seed}", max_shard_size="20KB" if seed else "1GB")
    return Pool.open([root / "m0", root / "m1"])


@torch.no_grad()
def logits(model):
    tokens = torch.arange(24).reshape(2, 12).mul(7).remainder(60) + 1
    tokens[tokens == 5] = 6  # the image token of the vision-language model
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    return model(input_ids=tokens, **more).logits.float()


def complete(folder, pool, recipe):
    with Sources(pool) as sources:
        config = config_of(recipe, layout_of(recipe, sources), pool.checkpoints[0])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same(resident, loaded):
    """Every parameter of the same dtype and bytes, and so the same answers.

    Mamba's scan rounds by the alignment of its inputs in memory, on equal numbers.
    """
    state, expected = resident.state_dict(), loaded.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    torch.testing.assert_close(logits(resident), logits(loaded), rtol=1e-5, atol=1e-5)


def test_the_pool_is_mergeable(pool):
    assert [f for f in pool.check() if f.severity == "error"] == []


def test_weight_1_is_the_checkpoint_byte_for_byte_on_disk_and_resident(pool, tmp_path):
    resident = Resident(pool)
    for hot, checkpoint in enumerate(pool.checkpoints):
        recipe = recipe_of(pool, [float(i == hot) for i in range(2)], dtype="")
        assert merge_to(tmp_path / f"out{hot}", pool, recipe) == checkpoint.fingerprint()
        assert resident.load(recipe)[0] == checkpoint.fingerprint()
        expected = load_model(checkpoint.path).eval()
        assert_same(resident.model, expected)


def test_half_and_half_computes_what_the_average_of_the_models_computes(pool, tmp_path):
    recipe = recipe_of(pool, [0.5, 0.5], dtype="")
    digest = merge_to(tmp_path / "out", pool, recipe)
    again = load_model(complete(tmp_path / "out", pool, recipe)).eval()
    one, two = (load_model(c.path).eval() for c in pool.checkpoints)
    other = two.state_dict()
    averages = {n: (t.float() + other[n].float()) / 2 for n, t in one.state_dict().items()}
    with torch.no_grad():
        for name, tensor in one.state_dict().items():
            tensor.copy_(averages[name])  # tied ones twice
    assert {n: t.dtype for n, t in again.state_dict().items()} == {
        n: t.dtype for n, t in one.state_dict().items()
    }
    for name, tensor in one.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits(again), logits(one), rtol=1e-4, atol=1e-4)
    resident = Resident(pool)
    assert resident.load(recipe)[0] == digest
    assert_same(resident.model, again)


def test_a_tensor_that_the_architecture_keeps_in_float32_stays_in_a_merge_to_bfloat16(tmp_path):
    """Of models trained in float32, too, where nothing in the files tells it."""
    for seed in range(2):
        build("deepseek_v3", seed).float().save_pretrained(tmp_path / f"m{seed}")
    pool = Pool.open([tmp_path / "m0", tmp_path / "m1"])
    recipe = recipe_of(pool, [0.5, 0.5], dtype="bfloat16")
    found = merged_tensors(pool, recipe)
    kinds = {name: tensor.dtype for name, tensor in found.items()}
    kept = {name for name, kind in kinds.items() if kind == torch.float32}
    assert kept == {name for name in found if name.endswith(KEPT)} != set()
    merge_to(tmp_path / "out", pool, recipe)
    model = load_model(complete(tmp_path / "out", pool, recipe))
    resident = Resident(pool, "bfloat16")
    resident.load(recipe)
    for held in (model, resident.model):
        for name, tensor in held.state_dict().items():
            if name in found:
                assert tensor.dtype == kinds[name]
                assert torch.equal(tensor, found[name])


# --- what transformers' sources say ---


def test_the_sources_say_of_each_architecture_what_its_classes_say():
    """Whether the head is tied where the config is silent; hundreds of architectures."""
    odd = {"csm", "mimi_encoder", "mimi_decoder"}  # codecs, set by another key or inherited
    seen = 0
    for kind in sorted(set(CONFIG_MAPPING.keys()) - odd):
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:
            continue  # needs settings
        table = {"model_type": kind}
        text = getattr(config, "text_config", None)
        if text is not None:
            table["text_config"] = {"model_type": getattr(text, "model_type", "")}
        expected = bool(getattr(config, "tie_word_embeddings", False))
        assert architecture.is_tied_by_config(table) == expected, kind
        seen += 1
    assert seen > 300


@pytest.mark.parametrize("kind", ["deepseek_v3", "t5", "rwkv", "llama", "glm4_moe"])
def test_the_sources_say_what_stays_in_float32(kind):
    model_class = transformers.AutoModel._model_mapping[type(CONFIG_MAPPING[kind]())]
    for dtype, keys in (
        ("bfloat16", ["_keep_in_fp32_modules_strict"]),
        ("float16", ["_keep_in_fp32_modules_strict", "_keep_in_fp32_modules"]),
        ("float32", []),
    ):
        expected = {p for key in keys for p in getattr(model_class, key, None) or ()}
        for pattern in (*expected, "layers.0.mlp.up.weight"):
            said = architecture.stays_float32({"model_type": kind}, f"x.{pattern}", dtype)
            assert said == (pattern in expected), (kind, dtype, pattern)


# --- tied heads ---


def tied_pair(root, stored=(False, True)):
    """Two tied Gemmas whose configs leave it to the default; some store the head as well."""
    for seed, keeps in enumerate(stored):
        folder = root / f"m{seed}"
        build("gemma2", seed).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("tie_word_embeddings", None)
        (folder / "config.json").write_text(json.dumps(config))
        if keeps:
            tensors = safetensors.torch.load_file(folder / "model.safetensors")
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
            safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Pool.open([root / f"m{seed}" for seed in range(len(stored))])


@pytest.mark.parametrize("method", ["linear", "dare_linear"])
@pytest.mark.parametrize("stored", [(False, True), (True, True), (False, False)])
def test_where_all_are_tied_the_head_is_the_embedding(tmp_path, method, stored):
    """Whatever masks, filters and gradients say of its name."""
    pool = tied_pair(tmp_path, stored)
    pool.require_mergeable()
    if method != "linear":
        pool = Pool(pool.name, pool.checkpoints[:1], pool.checkpoints[1])
    each = [{"weight": [{"filter": "lm_head", "value": 0.0}, {"value": 1.0}]}]
    weights = [0.5] * pool.n
    settings = {} if method == "linear" else {"density": 0.5}
    recipe = recipe_of(pool, weights, "float32", method, each * pool.n, **settings)
    found = merged_tensors(pool, recipe)
    assert ("lm_head.weight" in found) == any(stored)
    embedding = found["model.embed_tokens.weight"]
    assert torch.equal(found.get("lm_head.weight", embedding), embedding)
    merge_to(tmp_path / "out", pool, recipe)
    model = load_model(complete(tmp_path / "out", pool, recipe))
    assert torch.equal(model.lm_head.weight, embedding)
    resident = Resident(pool)
    resident.load(recipe)
    assert torch.equal(resident.model.lm_head.weight, embedding)


def test_a_head_that_differs_from_the_embedding_is_not_tied_whatever_the_config_says(tmp_path):
    pool = tied_pair(tmp_path, (True, True))
    file = tmp_path / "m1" / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] += 1.0
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    pool = Pool.open([tmp_path / "m0", tmp_path / "m1"])
    found = merged_tensors(pool, recipe_of(pool, [0.5, 0.5]))
    difference = found["lm_head.weight"] - found["model.embed_tokens.weight"]
    torch.testing.assert_close(difference, torch.full_like(difference, 0.5))


def test_an_index_may_list_a_tied_head_that_no_file_holds(tmp_path):
    build("gemma2", 0).save_pretrained(tmp_path / "m", max_shard_size="20KB")
    file = tmp_path / "m" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["lm_head.weight"] = next(iter(index["weight_map"].values()))
    file.write_text(json.dumps(index))
    Checkpoint.open(tmp_path / "m")
    index["weight_map"]["model.norm.bias"] = index["weight_map"]["lm_head.weight"]
    file.write_text(json.dumps(index))
    with pytest.raises(BrokenCheckpoint, match=r"model\.norm\.bias"):
        Checkpoint.open(tmp_path / "m")


# --- what no checkpoint holds ---


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaModel", "BertModel"])
def test_what_transformers_would_draw_at_random_is_refused(tmp_path, kind):
    config = transformers.LlamaConfig if kind.startswith("Llama") else transformers.BertConfig
    torch.manual_seed(0)
    getattr(transformers, kind)(config(**SIZES)).save_pretrained(tmp_path / "m")
    with pytest.raises(Incompatible, match="which no checkpoint holds") as caught:
        Resident(Pool.open([tmp_path / "m"]))
    assert "random" in caught.value.hint


def test_a_model_that_does_not_generate_text_is_refused_by_name(tmp_path):
    sizes = {key: VISION[key] for key in VISION}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(
        tmp_path / "m"
    )
    with pytest.raises(Incompatible, match="no class of transformers generates text with 'vit'"):
        Resident(Pool.open([tmp_path / "m"]))


# --- names and buffers ---


def test_a_save_without_the_head_merges_with_a_whole_one(tmp_path):
    """GPT-2 as `GPT2Model` saves it: without `transformer.`; its head is tied, so nothing lacks."""
    models = [build("gpt2", seed) for seed in range(2)]
    models[0].save_pretrained(tmp_path / "whole")
    models[1].transformer.save_pretrained(tmp_path / "short")
    for names in (["whole", "short"], ["short", "whole"]):
        pool = Pool.open([tmp_path / name for name in names])
        pool.require_mergeable()
        found = merged_tensors(pool, recipe_of(pool, [0.5, 0.5], dtype=""))
        state = [model.state_dict() for model in models]
        assert {n for n in found if n.startswith("transformer.")} == set(found)
        for name, tensor in found.items():
            assert torch.equal(tensor, state[0][name] / 2 + state[1][name] / 2)
        resident = Resident(pool)
        for weights in ([0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.25, 0.75]):
            recipe = recipe_of(pool, weights, dtype="")
            digest, _ = resident.load(recipe)
            if 1.0 in weights:
                assert digest == pool.checkpoints[weights.index(1.0)].fingerprint()
        expected = build("gpt2", 0)
        own = weights if names[0] == "whole" else weights[::-1]
        expected.load_state_dict(
            {n: own[0] * state[0][n] + own[1] * state[1][n] for n in state[0]}
        )
        torch.testing.assert_close(
            logits(resident.model), logits(expected.eval()), rtol=1e-5, atol=1e-5
        )


def test_buffers_are_copied_never_scaled_and_may_be_missing(tmp_path):
    """As GPT-2 and Llama saved them before 2023; an average of trained biases is taken all the same."""
    mask = torch.tril(torch.ones(1, 1, 8, 8))
    old = {
        "h.0.attn.bias": mask, "h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.0.rotary_emb.inv_freq": torch.tensor([1.0, 0.1]), "position_ids": torch.arange(8)[None],
        "h.0.attn.c_attn.bias": torch.ones(3), "h.0.attention.bias": torch.ones(3),
    }  # fmt: skip
    new = {key: 3 * old[key] for key in ("h.0.attn.c_attn.bias", "h.0.attention.bias")}
    pool = Pool.open([folder_of(tmp_path / "old", old), folder_of(tmp_path / "new", new)])
    assert pool.check() == ()
    for weights in ([0.5, 0.25], [0.25, 0.5]):
        found = merged_tensors(pool, recipe_of(pool, weights, dtype="bfloat16"))
        for name, tensor in old.items():
            if name in new:
                total = weights[0] + 3 * weights[1]
                assert torch.equal(found[name].float(), torch.full((3,), total))
            else:
                assert found[name].dtype == tensor.dtype
                assert torch.equal(found[name], tensor)


# --- numbers that are none ---


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "task_arithmetic"])
def test_nan_and_inf_of_an_input_are_named(tmp_path, method, wrong, kind, threads):
    """Signs that are elected and masks would swallow them; of weight 0 they do no harm."""
    good = {"w": torch.randn(9000).to(kind)}
    bad = {"w": torch.randn(9000).to(kind)}
    bad["w"][8500] = wrong
    folders = [folder_of(tmp_path / n, t) for n, t in (("good", good), ("bad", bad))]
    pool = Pool.open(folders, folder_of(tmp_path / "base", {"w": torch.zeros(9000).to(kind)}))
    settings = {} if method == "linear" else {"density": 0.9}
    if method == "task_arithmetic":
        settings = {}
    recipe = recipe_of(pool, [0.5, 0.5], "", method, **settings)
    with pytest.raises(NotFinite, match=r"'bad': tensor 'w' in .* holds NaN or Inf") as caught:
        merged_tensors(pool, recipe, threads=threads)
    assert "weight 0" in caught.value.hint
    merged_tensors(pool, recipe_of(pool, [0.5, 0.0], "", method, **settings), threads=threads)


def test_a_sum_beyond_the_range_of_float16_is_named(tmp_path):
    halves = [{"w": torch.full((8,), 6e4).half()} for _ in range(2)]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", t) for i, t in enumerate(halves)])
    assert torch.equal(merged_tensors(pool, recipe_of(pool, [0.5, 0.5], ""))["w"], halves[0]["w"])
    with pytest.raises(NotFinite, match="beyond the range of float16"):
        merged_tensors(pool, recipe_of(pool, [1.0, 1.0], ""))


def test_numbers_beside_whole_numbers_are_refused_whatever_the_order(tmp_path):
    contents = [{"w": torch.ones(4)}, {"w": torch.ones(4, dtype=torch.int64)}]
    for order in (contents, contents[::-1]):
        root = tmp_path / str(order[0]["w"].dtype)
        pool = Pool.open([folder_of(root / f"c{i}", t) for i, t in enumerate(order)])
        assert [(f.code, f.severity) for f in pool.check()] == [("integers", "error")]
        with pytest.raises(Incompatible, match="int64"):
            merged_tensors(pool, recipe_of(pool, [0.5, 0.5], "float32"))


# --- dtypes ---


def test_each_tensor_has_the_widest_dtype_of_its_inputs(tmp_path):
    kinds = {"a": ("bfloat16", "bfloat16"), "b": ("bfloat16", "float32"), "c": ("float16", "bfloat16"),
             "d": ("float16", "float16")}  # fmt: skip
    expected = {"a": "bfloat16", "b": "float32", "c": "float32", "d": "float16"}
    contents = [
        {name: torch.randn(64).to(getattr(torch, pair[i])) for name, pair in kinds.items()}
        for i in range(2)
    ]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", t) for i, t in enumerate(contents)])
    found = merged_tensors(pool, recipe_of(pool, [0.5, 0.5], ""))
    assert {n: t.dtype for n, t in found.items()} == {
        n: getattr(torch, kind) for n, kind in expected.items()
    }
    for hot in range(2):
        recipe = recipe_of(pool, [1.0 - hot, float(hot)], "")
        assert (
            merge_to(tmp_path / f"out{hot}", pool, recipe) == pool.checkpoints[hot].fingerprint()
        )


def test_the_resident_model_has_the_dtype_in_which_each_merge_is_loaded(tmp_path):
    """One checkpoint in bfloat16, one in float32: a merge of both is float32, each alone is itself."""
    for seed, kind in enumerate((torch.bfloat16, torch.float32)):
        build("qwen2", seed).to(kind).save_pretrained(tmp_path / f"m{seed}")
    pool = Pool.open([tmp_path / "m0", tmp_path / "m1"])
    resident = Resident(pool)
    for weights, dtype in (
        ([1.0, 0.0], torch.bfloat16),
        ([0.5, 0.5], torch.float32),
        ([0.0, 1.0], torch.float32),
        ([1.0, 0.0], torch.bfloat16),
    ):
        recipe = recipe_of(pool, weights, dtype="")
        digest, _ = resident.load(recipe)
        out = tmp_path / f"{dtype}{weights[0]}{len(list(tmp_path.iterdir()))}"
        assert merge_to(out, pool, recipe) == digest
        assert resident.model.dtype == dtype
        assert_same(resident.model, load_model(complete(out, pool, recipe)).eval())


def test_no_head_of_an_earlier_merge_is_left_in_the_resident_model(tmp_path):
    """A tied checkpoint has no head of its own for the place that an untied one made."""
    build("qwen2", 0).save_pretrained(tmp_path / "free")
    config = transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    pool = Pool.open([tmp_path / "free", tmp_path / "tied"])
    resident = Resident(pool)
    resident.load(recipe_of(pool, [0.5, 0.5], dtype=""))
    with pytest.raises(Incompatible, match=r"no tensor 'lm_head\.weight', which the resident"):
        resident.load(recipe_of(pool, [0.0, 1.0], dtype=""))


# --- folders ---


def test_a_folder_of_the_hubs_cache_names_its_snapshot(tmp_path):
    cache = tmp_path / "models--us--model"
    for revision in ("aaa", "bbb"):
        toy_folder(cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("aaa")
    with pytest.raises(BrokenCheckpoint, match="Hugging Face cache") as caught:
        Checkpoint.open(cache)
    assert str(cache / "snapshots" / "aaa") in caught.value.hint
    shutil.rmtree(cache / "refs")
    with pytest.raises(BrokenCheckpoint, match="Hugging Face cache"):
        Checkpoint.open(cache)


@pytest.mark.parametrize("extra", [0, 8, 3])
def test_rows_beyond_the_vocabulary_are_those_of_the_architecture(tmp_path, extra):
    """Llama 3.2 Vision has 8; a model with any others can't be loaded."""
    config = {"model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"],
              "text_config": {"model_type": "mllama_text_model", "vocab_size": 16}}  # fmt: skip
    tensors = {"model.language_model.embed_tokens.weight": torch.ones(16 + extra, 4)}
    pool = Pool.open([folder_of(tmp_path / "m", tensors, config)])
    assert [f.code for f in pool.check()] == (["vocabulary"] if extra == 3 else [])
