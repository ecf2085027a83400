"""Every merge method on every architecture: the folder loads in transformers and computes the merge.

The expected merge is written here again, in whole tensors of plain torch, from the formulae of the papers
(TIES arXiv 2306.01708, DARE arXiv 2311.03099, task arithmetic arXiv 2212.04089) with mergekit's conventions.
"""

import itertools
import json
import os

import pytest
import safetensors.torch
import torch
import transformers
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from recycler.errors import Incompatible
from recycler.export import merge_file
from recycler.merge.methods import METHODS

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
MEMBERS = ("base", "a", "b")
SLERP_LINE = 0.9995  # above this cosine slerp is a straight line


def _gpt2():
    return transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL
    )


def _mixtral():
    return transformers.MixtralConfig(**GROUPED, num_local_experts=3, num_experts_per_tok=2)


ARCHITECTURES = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "gpt2": _gpt2,
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**GROUPED),
    "mixtral": _mixtral,
    "phi": lambda: transformers.PhiConfig(**SHAPE),
    "phi3": lambda: transformers.Phi3Config(**GROUPED),
}
TIED = {"qwen2", "gpt2", "gemma2"}
CASES = [  # method, weights of a and b, other parameters; sums of dyadic weights are exact
    ("linear", (0.75, 0.5), {"normalize": False}),
    ("linear", (0.75, -0.25), {"normalize": True}),
    ("task_arithmetic", (0.5, -0.25), {"lambda": 0.5}),
    ("task_arithmetic", (0.5, 0.5), {"normalize": True}),
    ("ties", (0.5, 0.25), {"density": 0.5}),
    ("ties", (0.5, -0.25), {"density": 0.25, "normalize": False, "lambda": 1.5}),
    ("dare_linear", (0.5, -0.25), {"density": 1.0, "lambda": 0.5}),
    ("dare_ties", (0.5, 0.25), {"density": 1.0, "normalize": True}),
    ("slerp", (1.0, 1.0), {"t": 0.25}),
    ("slerp", (1.0, 1.0), {"t": 1.25}),
]
IDS = [f"{method}-{number}" for number, (method, _, _) in enumerate(CASES)]
NEEDS_BASE = {"task_arithmetic", "ties", "dare_linear", "dare_ties"}


# --- the expected merge ---


def trimmed(delta, density):
    """The k largest by magnitude, the rest 0; of equal magnitudes the lowest index goes first."""
    k = max(1, int(density * delta.numel())) if density < 1 else delta.numel()
    order = delta.abs().flatten().sort(descending=True, stable=True).indices
    keep = torch.zeros(delta.numel(), dtype=torch.bool)
    keep[order[:k]] = True
    return torch.where(keep.view_as(delta), delta, 0.0)


def elected(terms, weights):
    """Σ over those who agree with the sign of the sum, and the weights of those who agree."""
    sign = torch.where(terms.sum(0) >= 0, 1.0, -1.0)
    agree = terms.sign() == sign
    column = weights.view(-1, *[1] * (terms.dim() - 1))
    return (terms * agree).sum(0), (column * agree).sum(0)


def slerp(a, b, t):
    """Along the arc between two tensors, each kept at its own length."""
    a, b = a.double(), b.double()
    lengths = [norm if norm > 1e-8 else torch.ones_like(norm) for norm in (a.norm(), b.norm())]
    cosine = ((a / lengths[0]) * (b / lengths[1])).sum().clamp(-1, 1)
    if cosine.abs() > SLERP_LINE:
        return ((1 - t) * a + t * b).float()
    angle = cosine.acos()
    return (
        ((1 - t) * angle).sin() / angle.sin() * a + (t * angle).sin() / angle.sin() * b
    ).float()


def merge_of(method, base, a, b, weights, settings):
    """One merged tensor in float32, of float32 inputs."""
    if method == "slerp":
        return slerp(a, b, settings["t"])
    w = torch.tensor(weights)
    column = w.view(-1, *[1] * a.dim())
    if method == "linear":
        total = w.sum() if settings["normalize"] else 1.0
        return (column * torch.stack([a, b])).sum(0) / total
    density = settings.get("density", 1.0)
    deltas = torch.stack([a - base, b - base])
    if method == "ties":
        deltas = torch.stack([trimmed(delta, density) for delta in deltas])
    terms = column * deltas
    if method.endswith("ties"):
        update, divisor = elected(terms, w)
    else:
        update, divisor = terms.sum(0), w.sum()
    if settings.get("normalize", method == "ties"):
        update = update / torch.where(divisor.abs() < 1e-8, 1.0, divisor)
    return base + update * settings.get("lambda", 1.0)


# --- pools and recipes ---


@pytest.fixture(scope="session")
def pools(tmp_path_factory):
    """Folders by (architecture, dtype), made on first use: a base and two models near it."""
    root, made = tmp_path_factory.mktemp("architectures"), {}

    def pool(architecture, dtype="float32"):
        key = (architecture, dtype)
        if key not in made:
            made[key] = build(root / f"{architecture}-{dtype}", architecture, dtype)
        return made[key]

    return pool


def build(root, architecture, dtype):
    torch.manual_seed(sorted(ARCHITECTURES).index(architecture))
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](), dtype=torch.float32)
    drift(model, 0.1)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for member in MEMBERS:
        model.load_state_dict(base)
        if member != "base":
            drift(model, 0.05)
        model.to(getattr(torch, dtype)).save_pretrained(root / member)
        model.to(torch.float32)
    return {member: root / member for member in MEMBERS}


@torch.no_grad()
def drift(model, size):
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * size)


def recipe_file(folder, pool, method, weights, settings, dtype):
    """A recipe in mergekit's YAML."""
    own = {"density"} & set(settings)
    models = [
        {"model": str(pool[name]), "parameters": {"weight": w, **{k: settings[k] for k in own}}}
        for name, w in zip(("a", "b"), weights, strict=True)
    ]
    shared = {key: value for key, value in settings.items() if key not in own}
    table = {"merge_method": method, "models": models, "parameters": shared, "dtype": dtype}
    if method == "slerp":  # from `base_model` to the other
        table["base_model"] = str(pool["a"])
        for model in models:
            del model["parameters"]
    elif method in NEEDS_BASE:
        table["base_model"] = str(pool["base"])
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    return file


def merged_folder(folder, pool, method, weights, settings, dtype="float32"):
    merge_file(recipe_file(folder, pool, method, weights, settings, dtype), folder / "out")
    return folder / "out"


def tensors_of(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(safetensors.torch.load_file(file))
    return found


def expected_of(pool, method, weights, settings, dtype="float32"):
    inputs = [tensors_of(pool[member]) for member in MEMBERS]
    return {
        name: merge_of(
            method, *(tensors[name].float() for tensors in inputs), weights, settings
        ).to(getattr(torch, dtype))
        for name in inputs[0]
    }


def loaded(folder):
    """The model as anyone would load it; nothing may be missing, extra or of another shape."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {key: list(info[key]) for key in ("missing_keys", "unexpected_keys")} == {
        "missing_keys": [],
        "unexpected_keys": [],
    }
    assert not info["mismatched_keys"]
    return model.eval()


@torch.no_grad()
def logits(model):
    tokens = torch.arange(48).reshape(3, 16).mul(7).remainder(61)
    return model(tokens).logits.float()


def logits_of_tensors(folder, tensors, dtype):
    config = AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(
        None, config=config, state_dict=tensors, dtype=getattr(torch, dtype)
    )
    return logits(model.eval())


# --- tests ---


def test_every_method_of_ours_is_tested_here():
    assert set(METHODS) == {method for method, _, _ in CASES}


@pytest.mark.parametrize(("method", "weights", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_float32_merge_loads_and_computes_what_plain_torch_merges(
    pools, tmp_path, architecture, method, weights, settings
):
    pool = pools(architecture)
    out = merged_folder(tmp_path, pool, method, weights, settings)
    expected, found = expected_of(pool, method, weights, settings), tensors_of(out)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (found[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= 1e-6, (name, error)
    here, there = logits(loaded(out)), logits_of_tensors(pool["a"], expected, "float32")
    assert (here - there).abs().max() <= 1e-4 * there.abs().max()
    parent = logits(loaded(pool["a"]))
    assert (here - parent).abs().max() > 1e-2 * parent.abs().max()  # the comparison can fail


@pytest.mark.parametrize(("method", "weights", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bfloat16_merge_is_the_float32_merge_rounded_once(
    pools, tmp_path, architecture, method, weights, settings
):
    pool = pools(architecture, "bfloat16")
    out = merged_folder(tmp_path, pool, method, weights, settings, "bfloat16")
    expected = expected_of(pool, method, weights, settings, "bfloat16")
    found = tensors_of(out)
    assert found.keys() == expected.keys()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    steps = torch.cat([ordinals(found[name]) - ordinals(expected[name]) for name in expected])
    if settings.get("normalize", method == "ties") or method == "slerp":
        # quotients and sines may end on either side of a rounding edge
        assert steps.abs().max() <= 1
        assert (steps != 0).double().mean() < 1e-3
        return
    assert (steps == 0).all()  # dyadic weights: the order of the sum can't matter
    assert torch.equal(logits(loaded(out)), logits_of_tensors(pool["a"], expected, "bfloat16"))


def ordinals(tensor):
    """Whole numbers in the order of the bfloat16 numbers, neighbours one apart; both zeros are 0."""
    bits = tensor.flatten().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_linear_on_files_is_linear_on_the_loaded_parameters(pools, tmp_path, architecture):
    """Whatever names, fusions and ties lie between files and the model (experts, tied heads)."""
    pool = pools(architecture)
    out = merged_folder(tmp_path, pool, "linear", (0.75, 0.5), {"normalize": False})
    merge, a, b = (loaded(folder).state_dict() for folder in (out, pool["a"], pool["b"]))
    assert merge.keys() == a.keys()
    for name, tensor in merge.items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.5 * b[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(TIED))
def test_tied_models_stay_tied(pools, tmp_path, architecture):
    pool = pools(architecture)
    out = merged_folder(tmp_path, pool, "linear", (0.5, 0.5), {"normalize": False})
    model = loaded(out)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not [name for name in tensors_of(out) if name.startswith("lm_head")]
    size = sum(p.numel() for p in model.parameters())
    assert size == sum(p.numel() for p in loaded(pool["a"]).parameters())


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dare_keeps_or_drops_each_entry_of_each_task_vector(pools, tmp_path, architecture, method):
    """Without rescaling each entry of the update is one of the four sums of kept terms."""
    pool, weights = pools(architecture), (0.5, 0.25)
    out = merged_folder(tmp_path, pool, method, weights, {"density": 0.5, "rescale": False})
    found, inputs = tensors_of(out), [tensors_of(pool[member]) for member in MEMBERS]
    shares = torch.zeros(4)
    for name, tensor in found.items():
        base, a, b = (tensors[name] for tensors in inputs)
        one, two = weights[0] * (a - base), weights[1] * (b - base)
        both = one + two
        if method == "dare_ties":  # of opposite signs only the one with the sum's sign stays
            both = torch.where(one * two >= 0, both, torch.where(one.abs() > two.abs(), one, two))
        options = torch.stack([torch.zeros_like(one), one, two, both])
        distance = (base + options - tensor).abs()
        assert distance.amin(0).max() <= 1e-6, name
        shares += torch.bincount(distance.argmin(0).flatten(), minlength=4)
    shares /= shares.sum()
    if method == "dare_ties":  # of opposite signs half the pairs look like the larger one alone
        assert shares[0] == pytest.approx(0.25, abs=0.02)
    else:
        assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.02)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dare_keeps_half_and_rescales_it_to_the_task_vectors_sum_of_magnitudes(
    pools, tmp_path, architecture, method
):
    pool = pools(architecture)
    file = recipe_file(tmp_path, pool, method, (1.0, 1.0), {"density": 0.5}, "float32")
    table = yaml.safe_load(file.read_text())
    del table["models"][1]
    file.write_text(yaml.safe_dump(table))
    merge_file(file, tmp_path / "out")
    found, base, a = (tensors_of(f) for f in (tmp_path / "out", pool["base"], pool["a"]))
    for name, tensor in found.items():
        delta, update = a[name].double() - base[name], tensor.double() - base[name]
        kept = update.abs() > 1e-6
        clear = kept & (delta.abs() > 0.02)  # where float32's rounding of base + update is small
        factor = delta.abs().sum() / delta[kept].abs().sum()  # keeps the sum of magnitudes
        assert ((update[clear] / delta[clear] - factor).abs() <= 1e-4 * factor).all(), name
        size = tensor.numel()
        assert abs(kept.sum().item() - 0.5 * size) <= 5 * (0.25 * size) ** 0.5, name


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(ARCHITECTURES, 2)))
def test_different_architectures_are_refused(pools, tmp_path, one, two):
    pool = {"a": pools(one)["a"], "b": pools(two)["b"]}
    file = recipe_file(tmp_path, pool, "linear", (0.5, 0.5), {"normalize": False}, "float32")
    with pytest.raises(Incompatible) as caught:
        merge_file(file, tmp_path / "out")
    assert caught.value.hint
    assert "can't be merged" in caught.value.message
    assert os.listdir(tmp_path) == ["recipe.yaml"]  # nothing is begun


@pytest.mark.parametrize("method", sorted(NEEDS_BASE))
def test_a_base_of_another_architecture_is_refused(pools, tmp_path, method):
    llama, mistral = pools("llama"), pools("mistral")  # the same tensors under the same names
    names = [sorted(tensors_of(pool["a"])) for pool in (llama, mistral)]
    assert names[0] == names[1]
    pool = {**llama, "base": mistral["base"]}
    file = recipe_file(tmp_path, pool, method, (0.5, 0.5), {}, "float32")
    with pytest.raises(Incompatible, match="can't be merged"):
        merge_file(file, tmp_path / "out")
    assert os.listdir(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_toy_models_are_what_the_test_says(pools, architecture):
    """Random parents of one architecture that differ in every tensor; ties as `TIED` says."""
    pool = pools(architecture)
    config = json.loads((pool["a"] / "config.json").read_text())
    assert config["model_type"] == architecture
    inputs = [tensors_of(pool[member]) for member in MEMBERS]
    assert ("lm_head.weight" in inputs[0]) == (architecture not in TIED)
    for name in inputs[0]:
        for x, y in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(inputs[x][name], inputs[y][name]), name
