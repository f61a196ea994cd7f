from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.engines.local.kvcache import PrefixCache, num_common


def remember(cache: PrefixCache, ids: list[int]) -> int:
    """Reads ids into the cache; a token's key and value are made of it and what is before it."""
    match = cache.match(ids)
    rest = ids[match.num_tokens :]
    if rest:
        segment, start = cache.extend(match.anchor, rest)
        trace = [ids[: i + 1] for i in range(match.num_tokens, len(ids))]
        rows = torch.tensor([[float(hash(tuple(one)) % 9973)] for one in trace])[None]
        segment.write(0, start, rows, rows)
        cache.account(segment)
    return match.num_tokens


def recall(cache: PrefixCache, ids: list[int]) -> list[float]:
    """Returns the keys along the ids' cached prefix."""
    keys: list[float] = []
    for segment, length in cache.match(ids).chain:
        keys.extend(segment.read(0, length)[0][0, :, 0].tolist())
    return keys


sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(sequences, st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_matches_the_longest_prefix_with_its_own_keys(
    known: list[list[int]], asked: list[int]
) -> None:
    cache = PrefixCache(1 << 30)
    seen: list[list[int]] = []
    for ids in known:
        longest = max((num_common(ids, 0, one, 0) for one in seen), default=0)
        assert remember(cache, ids) == longest
        seen.append(ids)
    longest = max(num_common(asked, 0, one, 0) for one in seen)
    assert cache.match(asked).num_tokens == longest
    expected = [float(hash(tuple(asked[: i + 1])) % 9973) for i in range(longest)]
    assert recall(cache, asked) == expected


@settings(max_examples=50, deadline=None)
@given(sequences)
def test_following_an_anchor_is_matching_from_the_start(known: list[list[int]]) -> None:
    cache = PrefixCache(1 << 30)
    for ids in known:
        remember(cache, ids)
    for ids in known:
        half = len(ids) // 2
        head = cache.match(ids[:half])
        match = cache.follow(head.anchor, head.chain, ids[half:])
        whole = cache.match(ids)
        assert match.num_tokens + half == whole.num_tokens == len(ids)
        assert match.chain == whole.chain


@settings(max_examples=200, deadline=None)
@given(sequences, st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(0, 400))
def test_what_is_used_stays_and_what_is_left_is_right(
    known: list[list[int]], used: list[int], limit: int
) -> None:
    cache = PrefixCache(1 << 30)
    for ids in [*known, used]:
        remember(cache, ids)
    before = list(cache._segments())
    cache.limit_bytes = limit
    cache.shrink([cache.match(used).anchor])
    assert cache.match(used).num_tokens == len(used)
    for ids in [*known, used]:
        kept = cache.match(ids).num_tokens
        expected = [float(hash(tuple(ids[: i + 1])) % 9973) for i in range(kept)]
        assert recall(cache, ids) == expected
    after = list(cache._segments())
    assert cache.num_bytes == sum(segment.num_bytes for segment in after)
    gone = [one for one in before if not any(one is other for other in after)]
    assert all(one.dropped for one in gone)
    held = [child for one in gone for child in one.children.values()]
    assert not any(child is other for child in held for other in after), "it would be held for ever"


def test_least_recently_used_goes_first() -> None:
    cache = PrefixCache(1 << 30)
    remember(cache, [0] * 50 + [1])
    remember(cache, [0] * 50 + [2] * 40)
    remember(cache, [0] * 50 + [3] * 40)
    cache.match([0] * 50 + [2] * 40)
    before = cache.num_bytes
    cache.limit_bytes = before - 1
    cache.shrink()
    assert cache.match([0] * 50 + [3] * 40).num_tokens == 50
    assert cache.match([0] * 50 + [2] * 40).num_tokens == 90
    assert cache.num_bytes < before


def test_growing_in_place_keeps_what_was_written() -> None:
    cache = PrefixCache(1 << 30)
    ids: list[int] = []
    for i in range(300):
        ids.append(i)
        assert remember(cache, ids) == i
    assert len(cache.match(ids).chain) == 1
    assert recall(cache, ids) == [float(hash(tuple(ids[: i + 1])) % 9973) for i in range(300)]


def test_what_follows_a_long_segment_hangs_on_it() -> None:
    cache = PrefixCache(1 << 30)
    document = [i % 97 for i in range(5000)]
    remember(cache, document)
    size = cache.num_bytes
    remember(cache, [*document, 5, 5, 5])
    assert [length for _, length in cache.match([*document, 5, 5, 5]).chain] == [5000, 3]
    assert cache.num_bytes - size == size * 3 // 5000, "the document was not copied"


def test_num_common_on_long_lists() -> None:
    a, b = list(range(10_000)), list(range(10_000))
    b[7_777] = -1
    assert num_common(a, 0, b, 0) == 7_777
    assert num_common(a, 5, a, 5) == 9_995
    assert num_common([1], 0, [2], 0) == 0
    assert num_common([], 0, [2], 0) == 0
