"""Merge methods: each against a loop over single numbers, then its laws.

The loops follow the papers and mergekit's definitions (arXiv 2306.01708, 2311.03099) in float64 and
share no line with the package. Numbers lie on a coarse grid and weights are dyadic, so that signs
and thresholds have many ties and no rounding decides one.
"""

import hashlib
import math
from itertools import permutations, product

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from contracts.merge_method import MergeMethodContract, bits, tensors

from recycler.errors import InvalidConfig
from recycler.merge.arithmetic import Trim, kept_of
from recycler.merge.methods import METHODS, Linear, find_method, mask_key
from recycler.merge.plain import TensorFacts, random24, sparse

FAMILY = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
WEIGHTS = [0.5, -0.25, 1.5]
DENSITIES = [0.25, 0.5, 0.8]


class TestLinearContract(MergeMethodContract):
    method = Linear()


class TestNormalizedLinearContract(MergeMethodContract):
    method = Linear()
    settings = {"normalize": True}  # noqa: RUF012


class TestSlerpContract(MergeMethodContract):
    method = METHODS["slerp"]
    most = 2


class TestTaskArithmeticContract(MergeMethodContract):
    method = METHODS["task_arithmetic"]


class TestTiesContract(MergeMethodContract):
    method = METHODS["ties"]


class TestTrimmedTiesContract(MergeMethodContract):
    method = METHODS["ties"]
    settings = {"density": 0.5, "rescale": "l1", "sign": "count"}  # noqa: RUF012
    one_hot = False


class TestDareLinearContract(MergeMethodContract):
    method = METHODS["dare_linear"]


class TestDroppingDareLinearContract(MergeMethodContract):
    method = METHODS["dare_linear"]
    settings = {"density": 0.5}  # noqa: RUF012
    one_hot = False


class TestDareTiesContract(MergeMethodContract):
    method = METHODS["dare_ties"]


class TestDroppingDareTiesContract(MergeMethodContract):
    method = METHODS["dare_ties"]
    settings = {"density": 0.5, "rescale": "l1", "seed": 3}  # noqa: RUF012
    one_hot = False


# --- the definitions, one number at a time ---


def splitmix64(key: int, count: int) -> list[int]:
    """The first outputs of SplitMix64 from a state, in Python's whole numbers (Steele et al. 2014)."""
    out, word = [], (1 << 64) - 1
    for _ in range(count):
        key = (key + 0x9E3779B97F4A7C15) & word
        z = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        out.append(z ^ (z >> 31))
    return out


def kept_places(method: str, delta: list[float], density: float, key: int) -> list[bool]:
    if method == "ties":
        order = sorted(range(len(delta)), key=lambda j: (-abs(delta[j]), j))
        chosen = set(order[: max(1, math.floor(density * len(delta)))])
        return [density >= 1 or j in chosen for j in range(len(delta))]
    if method.startswith("dare"):
        return [z >> 40 < round(density * 2**24) for z in splitmix64(key, len(delta))]
    return [True] * len(delta)


def scale_of(rescale: str, delta: list[float], kept: list[bool], density: float) -> float:
    if rescale == "density":
        return 1 / density
    whole = sum(abs(d) for d in delta)
    part = sum(abs(d) for d, k in zip(delta, kept, strict=True) if k)
    return whole / part if rescale == "l1" and min(whole, part) >= 1e-7 and density < 1 else 1.0


def merged_number(terms: list[float], weights: list[float], sign: str, normalize: str) -> float:
    """What the n scaled and weighted entries of one place make of the base's update, before λ."""
    n = len(terms)
    if sign == "none":
        by = {"none": 1.0, "weights": sum(weights), "count": float(n)}[normalize]
        return sum(terms) / (by if abs(by) >= 1e-8 else 1.0)
    voices = {
        "weighted": terms,
        "plain": [t / w for t, w in zip(terms, weights, strict=True)],
        "count": [math.copysign(1, t) if t else 0.0 for t in terms],
    }[sign]
    elected = 1 if sum(voices) >= 0 else -1
    agree = [i for i in range(n) if voices[i] * elected > 0]
    by = {"none": 1.0, "weights": sum(weights[i] for i in agree), "count": float(len(agree))}
    return sum(terms[i] for i in agree) / (by[normalize] or 1.0)


def by_loops(method, inputs, weights, base, densities, keys, factor=1.0, **settings):
    """(numel,) float64: the method from its definition."""
    deltas = [(x.float() - base.float()).reshape(-1).tolist() for x in inputs]
    rows = []
    for delta, weight, density, key in zip(deltas, weights, densities, keys, strict=True):
        kept = kept_places(method, delta, density, key)
        scale = scale_of(settings.get("rescale", "none"), delta, kept, density)
        rows.append([weight * scale * d * k for d, k in zip(delta, kept, strict=True)])
    updates = [
        merged_number(
            list(terms), weights, settings.get("sign", "none"), settings.get("normalize", "none")
        )
        for terms in zip(*rows, strict=True)
    ]
    return base.reshape(-1).double() + factor * torch.tensor(updates, dtype=torch.float64)


def grid(n: int, numel: int, seed: int = 0, span: int = 6) -> list[torch.Tensor]:
    """Multiples of 1/8 in bfloat16: exact in every dtype, with many equal magnitudes and zeros."""
    rng = np.random.default_rng(seed)
    return [
        torch.tensor(rng.integers(-span, span + 1, numel) / 8).to(torch.bfloat16) for _ in range(n)
    ]


CONVENTIONS = [
    *(("task_arithmetic", {"normalize": normalize}) for normalize in ("none", "weights", "count")),
    *(
        ("ties", {"normalize": normalize, "rescale": rescale, "sign": sign})
        for normalize, rescale, sign in product(
            ("none", "weights", "count"), ("none", "l1", "density"), ("weighted", "plain", "count")
        )
    ),
    *(
        ("dare_linear", {"normalize": normalize, "rescale": rescale})
        for normalize, rescale in product(("none", "weights", "count"), ("none", "l1", "density"))
    ),
    *(
        ("dare_ties", {"normalize": normalize, "rescale": rescale, "sign": sign})
        for normalize, rescale, sign in product(
            ("none", "weights"), ("none", "l1", "density"), ("weighted", "plain", "count")
        )
    ),
]


@pytest.mark.parametrize(
    ("method", "settings"),
    CONVENTIONS,
    ids=lambda x: x if isinstance(x, str) else "-".join(x.values()),
)
def test_every_convention_is_what_a_loop_over_numbers_gives(method, settings):
    for seed, weights in enumerate(
        [WEIGHTS, [1.0, 1.0, 1.0], [-0.5, -0.5, -0.5], [0.25, 0.5, -0.75]]
    ):
        inputs, (base,) = grid(3, 77, seed), grid(1, 77, seed + 100)
        keys = [mask_key(seed, f"print-{i}", "x") for i in range(3)]
        found = METHODS[method](
            inputs, weights, base,
            {**settings, "density": DENSITIES, "keys": keys, "lambda": 0.75},
        )  # fmt: skip
        expected = by_loops(method, inputs, weights, base, DENSITIES, keys, 0.75, **settings)
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("method", FAMILY)
def test_the_defaults_are_the_documented_ones(method):
    documented = {
        "task_arithmetic": {"normalize": "none"},
        "ties": {"normalize": "weights", "rescale": "none", "sign": "weighted"},
        "dare_linear": {"normalize": "none", "rescale": "density"},
        "dare_ties": {"normalize": "none", "rescale": "density", "sign": "weighted"},
    }[method]
    inputs, (base,) = grid(3, 50), grid(1, 50, 9)
    keys = [mask_key(0, str(i), "") for i in range(3)]
    found = METHODS[method](inputs, WEIGHTS, base, {"density": 0.5})
    expected = by_loops(method, inputs, WEIGHTS, base, [0.5] * 3, keys, **documented)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


def test_plain_signs_are_the_weighted_ones_where_weights_are_equal():
    inputs, base = tensors(3, (200,), "float32"), torch.zeros(200)  # no vote is level
    for weight in (0.5, 1.0, -0.5):
        weighted, plain = (
            METHODS["ties"](inputs, [weight] * 3, base, {"density": 0.5, "sign": sign})
            for sign in ("weighted", "plain")
        )
        assert bits(weighted) == bits(plain)


def test_plain_signs_ask_the_unweighted_task_vectors():
    """As PEFT does: -1 times +2 agrees with an elected plus, though the term itself is negative."""
    settings = {"sign": "plain", "normalize": "count"}
    inputs = [torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([-0.5])]
    found = METHODS["ties"](inputs, [-1.0, 1.0, 1.0], torch.zeros(1), settings)
    assert found.tolist() == [(-2.0 + 1.0) / 2]


def test_task_arithmetic_by_hand():
    base, a, b = (torch.tensor(x) for x in ([1.0, 2.0], [2.0, 2.0], [1.0, 6.0]))
    found = METHODS["task_arithmetic"]([a, b], [0.5, 0.25], base, {"lambda": 2.0})
    assert found.tolist() == [1 + 2 * 0.5 * 1, 2 + 2 * 0.25 * 4]


def test_ties_by_hand():
    """The figure of the paper in numbers: trim to two, elect, mean of those who agree."""
    base = torch.zeros(4)
    a = torch.tensor([3.0, -1.0, 0.5, 2.0])  # keeps places 0 and 3
    b = torch.tensor([-2.0, 4.0, 0.25, 1.0])  # keeps places 0 and 1
    found = METHODS["ties"]([a, b], [1.0, 1.0], base, {"density": 0.5})
    assert found.tolist() == [3.0, 4.0, 0.0, 2.0]  # place 0: 3 - 2 > 0, so a alone counts
    halves = METHODS["ties"]([a, b], [1.0, 1.0], base, {"density": 0.5, "sign": "none"})
    assert halves.tolist() == [0.5, 2.0, 0.0, 1.0]


def test_a_vote_that_is_level_elects_plus():
    base = torch.zeros(1)
    level = [torch.tensor([1.5]), torch.tensor([-1.5])]
    assert METHODS["ties"](level, [1.0, 1.0], base, {}).tolist() == [1.5]


def test_a_negative_weight_turns_its_vote():
    base = torch.zeros(1)
    found = METHODS["ties"](
        [torch.tensor([1.0]), torch.tensor([2.0])], [1.0, -1.0], base, {"normalize": "none"}
    )
    assert found.tolist() == [-2.0]


# --- slerp ---


def test_slerp_of_right_angles_by_hand():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    found = METHODS["slerp"]([a, b], [2 / 3, 1 / 3], None, {})
    expected = torch.tensor([[2 * math.sin(math.pi / 3), 3 * math.sin(math.pi / 6)]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_slerp_keeps_the_norm_of_vectors_of_one_norm_and_runs_at_even_speed():
    a, b = (x / x.norm() for x in tensors(2, (500,), "float64"))
    angle = math.acos(float(a @ b))
    for t in (0.1, 0.5, 0.8):
        y = METHODS["slerp"]([a, b], [1 - t, t], None, {})
        assert float(y.norm()) == pytest.approx(1, abs=1e-12)
        assert math.acos(float(a @ y)) == pytest.approx(t * angle, abs=1e-9)


@pytest.mark.parametrize("factor", [1.0001, -1.0])
def test_slerp_is_linear_where_vectors_are_colinear(factor):
    (a,) = tensors(1, (50,), "float32")
    found = METHODS["slerp"]([a, factor * a], [0.75, 0.25], None, {})
    assert torch.equal(found, 0.75 * a + 0.25 * (factor * a))


def test_slerp_weighs_a_zero_vector_like_a_right_angle():
    a, zero = torch.tensor([4.0, 2.0]), torch.zeros(2)
    found = METHODS["slerp"]([a, zero], [0.5, 0.5], None, {})
    torch.testing.assert_close(found, a * math.sin(math.pi / 4))


@pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [1.0, -1.0]])
def test_slerp_takes_two_checkpoints_that_weigh_something(weights):
    with pytest.raises(InvalidConfig, match=f"slerp got {len(weights)} checkpoints") as caught:
        METHODS["slerp"](tensors(len(weights), (3,), "float32"), weights, None, {})
    assert "exactly two" in caught.value.hint


# --- laws ---

weight = st.integers(-16, 16).filter(bool).map(lambda k: k / 8)


@hypothesis.given(
    weights=st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6),
    share=st.floats(0, 1),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_linear_is_affine_in_the_weights(weights, share):
    inputs = tensors(3, (50,), "float64")
    u, v = weights[:3], weights[3:]
    between = [share * a + (1 - share) * b for a, b in zip(u, v, strict=True)]
    linear = Linear()
    at_u, at_v = linear(inputs, u, None, {}), linear(inputs, v, None, {})
    expected = share * at_u + (1 - share) * at_v
    torch.testing.assert_close(linear(inputs, between, None, {}), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("linear", {"normalize": "weights"}),
        ("slerp", {}),
        ("task_arithmetic", {"normalize": "weights"}),
        ("ties", {"normalize": "weights", "density": 0.5}),
        ("dare_linear", {"normalize": "weights", "density": 0.5}),
        ("dare_ties", {"normalize": "weights", "density": 0.5}),
    ],
)
@hypothesis.given(
    weights=st.lists(st.integers(1, 16), min_size=2, max_size=2), power=st.integers(-4, 4)
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_normalized_weights_are_scale_invariant(method, settings, weights, power):
    """Powers of two scale without rounding, so even the bytes are the same."""
    inputs, base = tensors(2, (60,), "float32"), tensors(1, (60,), "float32", seed=5)[0]
    one = METHODS[method](inputs, [w / 8 for w in weights], base, settings)
    other = METHODS[method](inputs, [w / 8 * 2.0**power for w in weights], base, settings)
    assert bits(one) == bits(other)


@pytest.mark.parametrize("method", METHODS)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=15, deadline=None)
def test_the_order_of_inputs_changes_no_more_than_rounding(method, data):
    """Exactly nothing on the grid, where sums are exact; masks go with their inputs."""
    n = 2 if method == "slerp" else 3
    weights = data.draw(st.lists(weight, min_size=n, max_size=n))
    hypothesis.assume(method != "slerp" or sum(weights) != 0)
    inputs, (base,) = grid(n, 40, data.draw(st.integers(0, 99))), grid(1, 40, 7)
    keys = [mask_key(0, str(i), "x") for i in range(n)]
    settings = {} if method in ("linear", "slerp") else {"normalize": "none"}
    results = [
        METHODS[method](
            [inputs[i] for i in order],
            [weights[i] for i in order],
            base,
            {
                **settings,
                "density": [DENSITIES[i] for i in order],
                "keys": [keys[i] for i in order],
            },
        )
        for order in permutations(range(n))
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-6)


def test_normalize_divides_by_the_sum_of_the_weights_or_their_count():
    inputs = tensors(2, (9,), "float32")
    linear = Linear()
    quarters = linear(inputs, [0.25, 0.75], None, {})
    for word in (True, "weights", 1):
        assert torch.equal(linear(inputs, [2.0, 6.0], None, {"normalize": word}), quarters)
    assert torch.equal(linear(inputs, [0.5, 1.5], None, {"normalize": "count"}), quarters)


def test_weights_that_sum_to_zero_are_not_normalized():
    with pytest.raises(InvalidConfig, match="sum to 0"):
        Linear()(tensors(2, (3,), "float32"), [1.0, -1.0], None, {"normalize": True})


@pytest.mark.parametrize("method", FAMILY)
def test_task_vectors_of_weights_that_sum_to_zero_are_not_divided(method):
    """As in mergekit: a sum below 1e-8 counts as 1."""
    base, (a, b) = torch.zeros(3), tensors(2, (3,), "float32")
    found = METHODS[method](
        [a, b], [0.5, -0.5], base, {"normalize": "weights", "sign": "none", "density": 1.0}
    )
    torch.testing.assert_close(found, 0.5 * a - 0.5 * b)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(InvalidConfig, match="'liner' is not a merge method") as caught:
        find_method("liner")
    assert "did you mean 'linear'" in caught.value.hint
    assert all(name in caught.value.hint for name in METHODS)
    assert find_method("linear") is METHODS["linear"]


# --- trimming ---


@hypothesis.given(
    numel=st.integers(1, 300),
    density=st.floats(0.001, 0.999),
    span=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_trimming_keeps_exactly_the_largest_and_of_equals_the_first(numel, density, span, seed):
    (x,), (base,) = grid(1, numel, seed, span), grid(1, numel, seed + 1, span)
    trim = TensorFacts([x], base).trim(0, density, "tensor")
    delta = x.float() - base.float()
    places = [(-abs(d), j) for j, d in enumerate(delta.tolist())]
    chosen = sorted(places)[: max(1, math.floor(density * numel))]
    expected = torch.zeros(numel)
    for _, j in chosen:
        expected[j] = delta[j]
    assert torch.equal(sparse(delta, trim, 0, 1 << 24), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trimming_keeps_the_right_number_of_close_magnitudes(dtype):
    """Differences of float64 inputs that float32 can't tell apart must not be kept or lost in bulk."""
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(5000, generator=rng, dtype=torch.float64).to(dtype)
    x = (base.double() + 1e-6 * torch.randn(5000, generator=rng, dtype=torch.float64)).to(dtype)
    merged = METHODS["ties"]([x], [1.0], base, {"density": 0.2})
    changed = int((merged != base).sum())
    trim = TensorFacts([x], base).trim(0, 0.2, "tensor")
    assert int((sparse(x - base, trim, 0, 1 << 24) != 0).sum()) == 1000
    assert changed == 1000


def test_how_many_are_kept_is_at_least_one():
    assert [kept_of(d, n) for d, n in [(0.02, 32), (0.2, 4), (0.5, 7), (1.0, 9), (0.3, 10)]] == [
        1, 1, 3, 9, 3,
    ]  # fmt: skip


def test_a_trim_of_nothing_keeps_everything():
    delta = torch.tensor([0.0, -0.0, 1.0, float("inf"), float("nan")])
    assert bits(sparse(delta, Trim(), 0, 1 << 24)) == bits(delta)


# --- random masks ---


def test_splitmix64_gives_the_published_sequence():
    """The outputs for seed 1234567 that the reference implementations agree on."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, 5) == published
    assert random24(1234567, torch.arange(5)).tolist() == [z >> 40 for z in published]


@hypothesis.given(key=st.integers(0, 2**64 - 1), first=st.integers(0, 2**40))
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_place_of_a_mask_can_be_asked_for_alone(key, first):
    """Number j from key k is the first number from key k + j times the generator's step."""
    step = 0x9E3779B97F4A7C15
    alone = splitmix64((key + first * step) % 2**64, 3)
    assert random24(key, torch.arange(first, first + 3)).tolist() == [z >> 40 for z in alone]


def test_the_key_of_a_mask_is_a_hash_of_seed_checkpoint_and_tensor():
    text = b"7\0sha256:ab\0model.norm.weight"
    expected = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    assert mask_key(7, "sha256:ab", "model.norm.weight") == expected
    others = {
        mask_key(7, "sha256:ab", "model.norm"),
        mask_key(7, "sha256:ac", "model.norm.weight"),
        mask_key(8, "sha256:ab", "model.norm.weight"),
        mask_key(77, "sha256:ab", "odel.norm.weight"),
    }
    assert len(others | {expected}) == 5


def masks(keys: list[int], density: float, numel: int = 200_000) -> np.ndarray:
    """(k, numel) 1 where kept."""
    limit, places = round(density * 2**24), torch.arange(numel)
    return np.stack([(random24(key, places) < limit).numpy() for key in keys]).astype(float)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept_lies_within_binomial_bounds(density):
    """Five standard errors; the keys are those of 20 tensors."""
    kept = masks([mask_key(0, "f", f"layer.{i}") for i in range(20)], density)
    error = math.sqrt(density * (1 - density) / kept.shape[1])
    assert (np.abs(kept.mean(1) - density) < 5 * error).all()
    assert abs(kept.mean() - density) < 5 * error / math.sqrt(len(kept))


def test_masks_of_other_checkpoints_tensors_and_seeds_are_uncorrelated():
    """Correlations of 200 000 places have the standard error 1/√200 000; neighbours too."""
    keys = [mask_key(s, f, t) for s in (0, 1) for f in ("a", "b") for t in ("x", "y", "z")]
    kept = masks(keys, 0.3)
    correlations = np.corrcoef(kept)[np.triu_indices(len(keys), 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(kept.shape[1])
    for lag in (1, 2, 64, 4096):
        for row in kept:
            assert abs(np.corrcoef(row[lag:], row[:-lag])[0, 1]) < 5 / math.sqrt(kept.shape[1])


def test_dropping_with_rescale_is_unbiased():
    """The mean over many seeds is the task vector itself, within five standard errors of each place."""
    base, (x,) = torch.zeros(30), tensors(1, (30,), "float32")
    draws = torch.stack(
        [
            METHODS["dare_linear"]([x], [1.0], base, {"density": 0.25, "seed": s})
            for s in range(2000)
        ]
    )
    error = x.abs() * math.sqrt(0.75 / 0.25 / 2000)
    assert ((draws.mean(0) - x).abs() <= 5 * error).all()
    assert set(draws[0].div(x).tolist()) <= {0.0, 4.0}


# --- settings that make no sense ---


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("ties", {"density": 0.0}, "density is 0.0"),
        ("ties", {"density": 1.5}, "density is 1.5"),
        ("dare_ties", {"density": float("nan")}, "density is nan"),
        ("ties", {"rescale": "foo"}, "rescale is 'foo'"),
        ("ties", {"sign": "loudest"}, "sign is 'loudest'"),
        ("ties", {"scope": "layer", "density": 0.5}, "scope is 'layer'"),
        ("task_arithmetic", {"normalize": "sum"}, "normalize is 'sum'"),
        ("linear", {"normalize": "sum"}, "normalize is 'sum'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(method, settings, message):
    inputs, base = tensors(2, (4,), "float32"), torch.zeros(4)
    with pytest.raises(InvalidConfig, match=message) as caught:
        METHODS[method](inputs, [0.5, 0.5], base, settings)
    assert caught.value.hint
