"""Latent attention of DeepSeek-V2-Lite: over a latent cache, and over expanded keys and values.

Both compute a layer's attention from the queries and the normed latents on, with the projections
of either way; `ours, expanded` is what the engine does with VLLM_MLA_DISABLE=1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as sdpa

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main

ops = torch.ops.vllm_kernels
HEADS, RANK, NOPE, ROPE, VALUE, BLOCK = 16, 512, 128, 64, 128, 128
LATENT, HEAD = RANK + ROPE, NOPE + ROPE
SCALE = HEAD**-0.5
PROMPTS = (512, 2048)
DECODE = [(batch, context) for batch in (1, 8) for context in (2048, 8192)]


class Layer:
    """Requests of one length: `tokens` queries (the last ones) over `context` keys."""

    def __init__(self, batch: int, tokens: int, context: int) -> None:
        self.batch, self.tokens, self.context = batch, tokens, context
        pages = context // BLOCK
        blocks, total = batch * pages, batch * tokens
        self.query = torch.randn(total, HEADS, HEAD).bfloat16()
        self.weight = (torch.randn(HEADS, NOPE + VALUE, RANK) * RANK**-0.5).bfloat16()
        self.packed_linear = ops.convert_weight_packed(self.weight.flatten(0, 1))
        keys, values = self.weight.split((NOPE, VALUE), dim=1)
        self.absorb = ops.convert_weight_packed(keys.transpose(1, 2).contiguous())
        self.restore = ops.convert_weight_packed(values.contiguous())
        self.table = torch.randperm(blocks).to(torch.int32).view(batch, pages)
        rows = self.table.long().unsqueeze(-1) * BLOCK + torch.arange(BLOCK)
        self.rows = rows.view(batch, -1)
        self.starts = torch.arange(0, total + 1, tokens, dtype=torch.int32)
        self.lengths = torch.full((batch,), context, dtype=torch.int64)
        self.new = self.rows[:, context - tokens :].reshape(-1).contiguous()
        self.latents = torch.randn(total, LATENT).bfloat16()
        self.cache = torch.randn(blocks, BLOCK, LATENT).bfloat16()
        self.key_cache, self.value_cache = self._expand_cache()
        self.output = torch.empty(total, HEADS, VALUE, dtype=torch.bfloat16)
        self.metadata = torch.zeros(16, dtype=torch.int8)

    def _expand_cache(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[blocks, heads, block, size] of both, values padded as the engine does."""
        both = (self.cache[..., :RANK] @ self.weight.flatten(0, 1).t()).unflatten(-1, (HEADS, -1))
        keys, values = both.split((NOPE, VALUE), dim=-1)
        rope = self.cache[..., None, RANK:].expand(-1, -1, HEADS, -1)
        cache = torch.empty(len(both), HEADS, 2, BLOCK, HEAD, dtype=torch.bfloat16)
        cache[:, :, 0] = torch.cat((keys, rope), -1).transpose(1, 2)
        cache[:, :, 1] = pad(values, (0, HEAD - VALUE)).transpose(1, 2)
        return cache[:, :, 0], cache[:, :, 1]

    def latent(self) -> torch.Tensor:
        ops.concat_and_cache_mla_cpu(
            self.latents[:, :RANK], self.latents[:, RANK:], self.cache, self.new
        )
        query = torch.empty(len(self.query), HEADS, LATENT, dtype=torch.bfloat16)
        ops.bmm_cpu(
            query[..., :RANK].transpose(0, 1), self.query[..., :NOPE].transpose(0, 1), self.absorb,
            True, None,
        )  # fmt: skip
        query[..., RANK:] = self.query[..., NOPE:]
        buffer = self.cache.view(-1, 1, LATENT)
        values = buffer[..., :RANK]
        found = torch.empty(len(query), HEADS, RANK, dtype=torch.bfloat16)
        requests = torch.arange(self.batch)
        options = (SCALE, 0.0, False, 0, None, None)
        if self.tokens == 1:
            ops.decode_attention_cpu(
                query, buffer, values, found, None, None, None, self.metadata, self.rows, requests,
                self.lengths, *options,
            )  # fmt: skip
        else:
            new = self.latents.unsqueeze(1)
            ops.extend_attention_cpu(
                query, new, new[..., :RANK], found, buffer, values, self.rows, requests,
                self.lengths, self.starts.diff().long(), self.starts[:-1].long(), self.tokens,
                *options, None,
            )  # fmt: skip
        output = self.output.transpose(0, 1)
        ops.bmm_cpu(output, found.transpose(0, 1), self.restore, True, None)
        return self.output

    def _project(self) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.empty(len(self.query), HEADS, NOPE + VALUE, dtype=torch.bfloat16)
        latents = self.latents[:, :RANK]
        ops.weight_packed_linear(both.flatten(1), latents, self.packed_linear, None, True)
        keys, values = both.split((NOPE, VALUE), dim=-1)
        rope = self.latents[:, None, RANK:].expand(-1, HEADS, -1)
        return torch.cat((keys, rope), -1), pad(values, (0, HEAD - VALUE))

    def expanded(self) -> torch.Tensor:
        keys, values = self._project()
        ops.cpu_attn_reshape_and_cache(
            keys, values, self.key_cache, self.value_cache, self.new, "vec"
        )
        found = torch.empty_like(self.query)
        ops.cpu_attention_with_kv_cache(
            self.query, self.key_cache, self.value_cache, found, self.starts, self.lengths.int(),
            SCALE, True, None, -1, self.table, 0.0, self.metadata, None, None,
        )  # fmt: skip
        return found[..., :VALUE].contiguous()

    def gathered(self) -> list[torch.Tensor]:
        """The expanded keys and values, [batch, heads, context, size]."""
        blocks = self.table.flatten()
        pages = (cache.index_select(0, blocks) for cache in (self.key_cache, self.value_cache))
        return [
            part.view(self.batch, -1, *part.shape[1:]).transpose(1, 2).flatten(2, 3)
            for part in pages
        ]

    def eager(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        query = self.query.view(self.batch, self.tokens, HEADS, -1).transpose(1, 2)
        found = sdpa(query, keys, values, is_causal=self.tokens > 1, scale=SCALE)
        return found.transpose(1, 2).flatten(0, 1)[..., :VALUE]


def _case(batch: int, tokens: int, context: int) -> Case:
    def make() -> dict[str, Call]:
        layer = Layer(batch, tokens, context)
        expanded, latent = layer.expanded(), layer.latent()
        torch.testing.assert_close(latent, expanded, rtol=0, atol=4e-2)
        keys, values = layer.gathered()
        return {
            "ours": layer.latent,
            "ours, expanded": layer.expanded,
            "eager": lambda: layer.eager(keys, values),
        }

    shape = {"batch": batch, "tokens": tokens, "keys": context}
    kind = "decode" if tokens == 1 else "prefill"
    return Case("latent_attention", shape, "bf16", make, kind)


def cases() -> Iterator[Case]:
    for tokens in PROMPTS:
        yield _case(1, tokens, tokens)
    for batch, context in DECODE:
        yield _case(batch, 1, context)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "latent_attention", cases))
