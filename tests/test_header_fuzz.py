"""Headers from hypothesis: `read_header` refuses or reads within bounds, and is never laxer.

The oracle is the safetensors library: what it refuses we refuse, what we accept it opens with the
same tensors. Over 10 000 inputs a run.
"""

import json
import math
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from recycler.checkpoints.header import DTYPES, read_header
from recycler.errors import BrokenCheckpoint

CODES = {"header", "truncated", "layout", "dtype-unknown", "pickle", "format", "lfs-pointer"}


def examples(count):
    """Settings of a test of so many inputs; there are 11 900 in all."""
    slow = [HealthCheck.too_slow]  # on a busy machine
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=slow)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def check(file, content):
    """One input: refused by name, or accepted by us and by the library with equal tensors."""
    file.write_bytes(content)
    refused = None
    try:
        specs = read_header(file)
    except BrokenCheckpoint as error:
        refused = error
    if refused is not None:
        assert str(file) in refused.message
        assert (refused.hint != "", refused.file, refused.finding in CODES) == (
            True,
            file.name,
            True,
        )
        assert len(refused.message) < 2000
        return False
    length = struct.unpack("<Q", content[:8])[0]
    assert sum(spec.nbytes for spec in specs) == len(content) - 8 - length
    for spec in specs:
        assert 8 + length <= spec.start <= spec.stop <= len(content)
        assert spec.nbytes * 8 == math.prod(spec.shape) * DTYPES[spec.dtype][1]
    with safe_open(file, framework="numpy") as opened:  # a SafetensorError fails the test
        assert sorted(opened.keys()) == sorted(spec.name for spec in specs)
        for spec in specs:
            part = opened.get_slice(spec.name)
            assert (tuple(part.get_shape()), part.get_dtype()) == (spec.shape, spec.dtype)
    return True


def packed(raw, data, length=None):
    return struct.pack("<Q", (len(raw) if length is None else length) % (1 << 64)) + raw + data


# --- structure-aware mutations ---

names = st.text(max_size=6) | st.sampled_from(["__metadata__", "a.weight", "\0", "\ufeff", "é"])
numbers = (
    st.integers(-2, 9)
    | st.sampled_from([2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**25])
    | st.floats()
    | st.booleans()
    | st.none()
    | st.text(max_size=3)
)
odd_dtypes = st.sampled_from(
    ["F4", "F6_E2M3", "F8_E8M0", "C64", "f32", "float32", "BF8", "", "F31"]
)


kinds = st.tuples(
    st.sampled_from(["a", "b.weight", "", "\0", "\ufeff", "é", "__metadata__"]),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 4), max_size=3),
)


@st.composite
def tables(draw):
    """A valid header as a list of pairs, and the size of its data [B]."""
    pairs, end = [], 0
    for name, dtype, shape in draw(st.lists(kinds, max_size=4, unique_by=lambda kind: kind[0])):
        if name == "__metadata__":
            pairs.append((name, {dtype: str(shape)}))
            continue
        size = math.prod(shape) * DTYPES[dtype][1] // 8
        offsets = [end, end + size]
        pairs.append((name, {"dtype": dtype, "shape": shape, "data_offsets": offsets}))
        end += size
    return pairs[::-1] if draw(st.booleans()) else pairs, end


def dumped(pairs):
    """JSON of pairs, of which two may have one key."""
    return b"{%b}" % b",".join(
        b"%b:%b" % (json.dumps(key).encode(), json.dumps(value).encode()) for key, value in pairs
    )


@examples(700)
@given(tables(), st.booleans(), st.integers(0, 9))
def test_a_valid_file_is_read_whatever_its_order_and_padding(file, table, escaped, spaces):
    pairs, size = table
    raw = json.dumps(dict(pairs), ensure_ascii=escaped).encode() + b" " * spaces
    assert check(file, packed(raw, bytes(size)))


@examples(2000)
@given(tables(), st.data())
def test_one_mutated_field_is_refused_or_as_good_as_in_the_library(file, table, data):
    pairs, size = table
    entries = [i for i, (name, _) in enumerate(pairs) if name != "__metadata__"]
    if not entries:
        return
    place = data.draw(st.sampled_from(entries))
    entry = dict(pairs[place][1])
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more", "less", "twice"]))
    if field == "dtype":
        entry["dtype"] = data.draw(odd_dtypes | st.sampled_from(sorted(DTYPES)) | numbers)
    elif field in ("shape", "data_offsets"):
        values = list(entry[field])
        where = data.draw(st.integers(0, len(values)))
        values[where : where + data.draw(st.integers(0, 1))] = [data.draw(numbers)]
        entry[field] = data.draw(st.just(values) | numbers)
    elif field == "more":
        entry[data.draw(names)] = data.draw(numbers)
    elif field == "less":
        del entry[data.draw(st.sampled_from(sorted(entry)))]
    changed = [*pairs[:place], (pairs[place][0], entry), *pairs[place + 1 :]]
    if field == "twice":
        changed.append(pairs[place])
    check(file, packed(dumped(changed), bytes(size)))


@examples(1000)
@given(tables(), st.integers(-40, 40), st.integers(-40, 40), st.booleans())
def test_sizes_that_do_not_fit_are_refused(file, table, more, longer, shift):
    pairs, size = table
    data = bytes(max(size + more, 0))
    if not shift:
        raw = dumped(pairs)
        accepted = check(file, packed(raw, data, len(raw) + longer))
        assert longer or accepted == (len(data) == size)
        return
    moved = [
        (name, {**entry, "data_offsets": [o + more for o in entry["data_offsets"]]})
        for name, entry in pairs
        if name != "__metadata__"
    ]
    assert check(file, packed(dumped(moved), data)) == (
        len(data) == size and (more == 0 or not moved)
    )


@examples(2500)
@given(tables(), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=5),
       st.integers(0, 1 << 16), st.binary(max_size=9))  # fmt: skip
def test_flipped_cut_and_inserted_bytes_are_refused_or_harmless(file, table, flips, cut, inserted):
    pairs, size = table
    content = bytearray(packed(dumped(pairs), bytes(size)))
    for place, value in flips:
        content[place % len(content)] = value
    place = cut % (len(content) + 1)
    content[place:place] = inserted
    check(file, bytes(content if cut % 3 else content[:place]))


# --- bytes and JSON of any kind ---


@examples(2000)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x04", b"PK\3\4", b"GGUF", b"{"]))
def test_any_bytes_are_refused_or_as_good_as_in_the_library(file, content, magic):
    check(file, magic + content)


@examples(2000)
@given(st.binary(max_size=120), st.integers(0, 24), st.booleans())
def test_any_bytes_for_a_header_are_refused(file, raw, size, braces):
    raw = b"{" + raw + b"}" if braces else raw
    check(file, packed(raw, bytes(size)))


json_values = st.recursive(
    numbers | odd_dtypes,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@examples(1400)
@given(st.dictionaries(names, json_values, max_size=3) | json_values, st.integers(0, 24))
def test_any_json_for_a_header_is_refused_or_as_good_as_in_the_library(file, table, size):
    check(file, packed(json.dumps(table).encode(), bytes(size)))


# --- what grows ---


@examples(300)
@given(
    st.sampled_from(
        ["[", '{"a":', "[[],", '"x",', "1,", "[1,", '{"shape":[', "9", "-", "1e", " ", "\\"]
    ),
    st.integers(1, 40_000),
    st.sampled_from(["", "]", "}", "0", '"']),
)
def test_long_and_deep_headers_take_memory_in_proportion(file, unit, count, end):
    raw = ('{"t":{"dtype":"F32","shape":[' + unit * count + end * count).encode()
    tracemalloc.start()
    accepted = check(file, packed(raw, b""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not accepted
    assert peak <= 200_000 + 40 * len(raw)


@pytest.mark.parametrize("claim", [2**40, 2**62, 2**64 - 1])
def test_a_claim_of_size_alone_takes_no_memory(file, claim):
    entry = {"dtype": "U8", "shape": [claim], "data_offsets": [0, claim]}
    for content in (
        packed(json.dumps({"t": entry}).encode(), b""),
        packed(b"{}", b"", length=claim),
    ):
        tracemalloc.start()
        assert not check(file, content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 200_000


def test_the_library_refuses_what_the_oracle_is_trusted_to_refuse(file):
    """The oracle itself: were it to open everything, no test above could fail by it."""
    for raw, data in (
        (b'{"t":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""),
        (b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 7),
        (b'{"t":{"dtype":"U8","shape":[9223372036854775808,2,0],"data_offsets":[0,0]}}', b""),
        (b'{"__metadata__":{"a":1}}', b""),
    ):
        assert not check(file, packed(raw, data))
        with pytest.raises(SafetensorError), safe_open(file, framework="numpy"):
            pass
