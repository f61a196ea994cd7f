from __future__ import annotations

import pytest
import torch

from agenticlu.attention.kernels import _attend_plainly, attend, attend_folded, merge

SCALE = 0.25


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Dense softmax attention of (H, n, D) queries to (K, S, D) keys."""
    repeats = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
    return torch.softmax(q @ k.transpose(-1, -2) * SCALE, dim=-1) @ v


@pytest.mark.parametrize("num_key_heads", [1, 2, 4])
def test_merged_parts_are_the_whole(num_key_heads: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(4, 5, 16)
    # Scores of quite different size in the parts, so that the weights matter.
    k = torch.cat([torch.randn(num_key_heads, 40, 16), 4 * torch.randn(num_key_heads, 7, 16)], 1)
    v = torch.randn(num_key_heads, 47, 16)
    first = attend_folded(q, k[:, :40], v[:, :40], SCALE)
    second = attend_folded(q, k[:, 40:], v[:, 40:], SCALE)
    whole, _ = merge(*first, *second)
    torch.testing.assert_close(whole, reference(q, k, v), atol=1e-5, rtol=1e-5)
    assert (first[0] - whole).abs().max() > 0.1, "leaving out a part must show"


def test_plain_attention_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    mask = torch.zeros(2, 1, 1, 9)
    mask[1, ..., 4:] = float("-inf")
    for causal, given in ((True, None), (False, None), (False, mask)):
        fast = attend(q, k, v, SCALE, causal=causal, mask=given)
        plain = _attend_plainly(q, k, v, SCALE, causal=causal, mask=given, block=4)
        torch.testing.assert_close(fast[0], plain[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast[1], plain[1], atol=1e-5, rtol=1e-5)
