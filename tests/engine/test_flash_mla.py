"""FlashMLA's stand-in: planted exactly where its kernels are, with upstream's ops and results."""

from __future__ import annotations

import pytest
import torch
from conftest import Engine
from cuda_engine import ASK, REFERENCE

from vllm_kernels import engine_api
from vllm_kernels_plugin import flash_mla
from vllm_kernels_plugin.flash_mla import FlashMLASchedMeta

# Of upstream's libraries _flashmla_C and _flashmla_extension_C, release 0.26.0.
UPSTREAM = """
_flashmla_C::sparse_decode_fwd(Tensor q, Tensor kv, Tensor indices, Tensor? topk_length, \
Tensor? attn_sink, Tensor(a)? tile_scheduler_metadata, Tensor(b)? num_splits, Tensor? extra_kv, \
Tensor? extra_indices, Tensor? extra_topk_length, int d_v, float sm_scale, Tensor(c!)? out_) -> \
(Tensor(c!), Tensor, Tensor(a)?, Tensor(b)?)
_flashmla_C::dense_decode_fwd(Tensor q, Tensor kcache, int head_size_v, Tensor seqlens_k, \
Tensor block_table, float softmax_scale, bool is_causal, Tensor(a)? tile_scheduler_metadata, \
Tensor(b)? num_splits, Tensor(c!)? out_) -> (Tensor(c!), Tensor, Tensor(a)?, Tensor(b)?)
_flashmla_C::sparse_prefill_fwd(Tensor q, Tensor kv, Tensor indices, float sm_scale, int d_v, \
Tensor? attn_sink, Tensor? topk_length, Tensor(a!)? out_) -> Tensor[]
_flashmla_C::dense_prefill_fwd(Tensor workspace_buffer, Tensor q, Tensor k, Tensor v, \
Tensor cumulative_seqlen_q, Tensor cumulative_seqlen_kv, Tensor(a!) o, Tensor(b!) lse, \
int mask_mode_code, float softmax_scale, int max_seqlen_q, int max_seqlen_kv, bool is_varlen) -> ()
_flashmla_extension_C::fwd_kvcache_mla_fp8(Tensor q, Tensor kcache, int head_size_v, \
Tensor seqlens_k, Tensor block_table, float softmax_scale, bool is_causal, \
Tensor tile_scheduler_metadata, Tensor num_splits, Tensor? descale_q, Tensor? descale_k) -> Tensor[]
_flashmla_extension_C::get_mla_decoding_metadata_dense_fp8(Tensor seqlens_k, \
int num_heads_per_head_k, int num_heads_k) -> Tensor[]
"""
# A GPU that is not there, with FlashMLA's kernels or without.
WITH = """
import vllm_kernels.engine_api as api
api.cuda_problem = lambda op: None
"""
WITHOUT = """
import vllm_kernels.engine_api as api
api.cuda_problem = lambda op: "mla is in vllm-flashmla" if op == "mla_attention" else None
"""


@pytest.fixture(scope="module")
def ops() -> object:
    flash_mla.plant()
    return torch.ops._flashmla_C


def test_schemas_are_upstreams(ops: object) -> None:
    wanted = sorted(str(torch._C.parse_schema(line)) for line in UPSTREAM.split("\n") if line)
    spaces = (torch.ops._flashmla_C, torch.ops._flashmla_extension_C)
    found = [
        str(getattr(space, function.__name__).default._schema)
        for space, functions in zip(spaces, flash_mla.SCHEMAS.values(), strict=True)
        for function in functions
    ]
    assert sorted(found) == wanted


def select(engine: Engine, installed: str) -> list[str]:
    done = engine.run(
        f"""
        from pretend import torch
        {installed.strip().replace(chr(10), chr(10) + " " * 8)}
        {ASK}
        from select_backend import AttentionBackendEnum as B, latent
        latent()
        latent("fp8")
        latent(wanted=B.FLASHMLA)
        latent("fp8_e4m3", wanted=B.FLASHMLA)
        latent("fp8_ds_mla", use_sparse=True, wanted=B.FLASHMLA_SPARSE)
        latent("fp8_ds_mla", use_sparse=True)
        import vllm.v1.attention.ops.flashmla as found
        print(found.available)
        """,
        **REFERENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


def test_chosen_where_installed(cuda: Engine) -> None:
    assert select(cuda, WITH) == [
        "FLASHMLA",
        "FLASHMLA",
        "FLASHMLA",
        "FLASHMLA",
        "FLASHMLA_SPARSE",
        "FLASHMLA_SPARSE",
        "True",
    ]


def test_never_chosen_where_not(cuda: Engine) -> None:
    refused = "cannot be used: mla is in vllm-flashmla"
    assert select(cuda, WITHOUT) == [
        "TRITON_MLA",
        "TRITON_MLA",
        f"the attention backend FLASHMLA {refused}",
        f"the attention backend FLASHMLA {refused}",
        f"the attention backend FLASHMLA_SPARSE {refused}",
        "no valid attention backend",
        "False",
    ]


def attend(query: torch.Tensor, keys: torch.Tensor, scale: float) -> tuple[torch.Tensor, ...]:
    """Output and log-sum-exp of ``[heads, 576]`` over ``[keys, 576]``, in float64."""
    logits = query.double() @ keys.double().T * scale
    return logits.softmax(-1) @ keys[:, :512].double(), logits.logsumexp(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [8, 16, 40, 128])
def test_dense_decode(dtype: torch.dtype, heads: int) -> None:
    torch.manual_seed(0)
    batch, queries, slots = 2, 2, 64
    cache = torch.randn(5, slots, 1, 576, dtype=dtype) / 4
    table = torch.tensor([[4, 1], [0, 3]], dtype=torch.int32)
    lengths = torch.tensor([70, 3], dtype=torch.int32)
    query = torch.randn(batch, queries, heads, 576, dtype=dtype)
    plan, _ = flash_mla.get_mla_metadata(lengths, queries * heads, 1, is_fp8_kvcache=False)
    for _ in range(2):  # the second layer gets the first one's plan
        out, lse = flash_mla.flash_mla_with_kvcache(
            query, cache, table, lengths, 512, plan, softmax_scale=0.1, causal=True
        )
        assert plan.have_initialized
        assert plan.tile_scheduler_metadata is not None
        for entry in range(batch):
            keys = cache[table[entry].long()].flatten(0, 2)
            for token in range(queries):
                seen = int(lengths[entry]) - (queries - 1 - token)
                want = attend(query[entry, token], keys[:seen], 0.1)
                torch.testing.assert_close(
                    out[entry, token].double(), want[0], atol=2e-2, rtol=2e-2
                )
                torch.testing.assert_close(
                    lse[entry, :, token].double(), want[1], atol=1e-3, rtol=1e-3
                )
    with pytest.raises(ValueError, match="the plan was made for"):
        flash_mla.flash_mla_with_kvcache(query[:1], cache, table[:1], lengths[:1], 512, plan)


@pytest.mark.parametrize("heads", [16, 128])
def test_dense_decode_of_float8(ops: object, heads: int) -> None:
    """As the engine calls it: a plan that it has copied, scales of a tensor each."""
    torch.manual_seed(0)
    extension = torch.ops._flashmla_extension_C
    cache = (torch.randn(5, 64, 1, 576) / 4).to(torch.float8_e4m3fn)
    table = torch.tensor([[4, 1], [0, 3]], dtype=torch.int32)
    lengths = torch.tensor([70, 3], dtype=torch.int32)
    query = torch.randn(2, 2, heads, 576).to(torch.float8_e4m3fn)
    plan, splits = extension.get_mla_decoding_metadata_dense_fp8(lengths, 2 * heads, 1)
    assert plan.dtype == splits.dtype == torch.int32
    assert splits.shape == (3,)
    buffer = torch.full((132, 8), -1, dtype=torch.int32)
    buffer[: plan.shape[0]].copy_(plan)
    scales = torch.tensor([0.5]), torch.tensor([2.0])
    out, lse = extension.fwd_kvcache_mla_fp8(
        query, cache, 512, lengths, table, 0.1, True, buffer[: plan.shape[0]], splits, *scales
    )
    assert out.dtype == torch.bfloat16
    keys_of = cache.float() * scales[1]
    for entry in range(2):
        keys = keys_of[table[entry].long()].flatten(0, 2)
        for token in range(2):
            seen = int(lengths[entry]) - (1 - token)
            want = attend(query[entry, token].float() * scales[0], keys[:seen], 0.1)
            torch.testing.assert_close(out[entry, token].double(), want[0], atol=2e-2, rtol=2e-2)
            torch.testing.assert_close(lse[entry, :, token].double(), want[1], atol=1e-3, rtol=1e-3)


def test_sparse_decode() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 64, 512).to(torch.float8_e4m3fn)
    scales, rope = torch.rand(3, 64, 4) + 0.5, torch.randn(3, 64, 64, dtype=torch.bfloat16)
    cache = torch.cat([part.view(torch.uint8) for part in (values, scales, rope)], -1)
    plain = values.float() * scales.repeat_interleave(128, -1)
    keys = torch.cat([plain.bfloat16().float(), rope.float()], -1).flatten(0, 1)
    query = torch.randn(1, 2, 64, 576, dtype=torch.bfloat16)
    indices = torch.tensor([[[5, 130, -1, 9], [70, -1, -1, 191]]], dtype=torch.int32)
    out, lse = flash_mla.flash_mla_with_kvcache(
        query, cache.unsqueeze(-2), None, None, 512, FlashMLASchedMeta(),
        is_fp8_kvcache=True, indices=indices,
    )  # fmt: skip
    for token in range(2):
        chosen = keys[[i for i in indices[0, token].tolist() if i >= 0]]
        want = attend(query[0, token], chosen, 576**-0.5)
        torch.testing.assert_close(out[0, token].double(), want[0], atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(lse[0, :, token].double(), want[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("heads", [8, 16, 32, 64, 128])
def test_sparse_prefill_into_strided_memory(heads: int) -> None:
    torch.manual_seed(0)
    keys = torch.randn(100, 1, 576, dtype=torch.bfloat16)
    query = torch.randn(3, heads, 576, dtype=torch.bfloat16)
    indices = torch.randint(-3, 103, (3, 1, 20)).int()
    lengths = torch.tensor([20, 7, 1], dtype=torch.int32)
    indices[:, :, 0] = 0
    wide = torch.full((3, heads + 8, 512), 7.0, dtype=torch.bfloat16)
    out, largest, lse = flash_mla.flash_mla_sparse_fwd(
        query, keys, indices, 0.05, topk_length=lengths, out=wide[:, :heads]
    )
    assert out.data_ptr() == wide.data_ptr()
    assert torch.all(wide[:, heads:] == 7)
    assert largest.shape == lse.shape == (3, heads)
    for token in range(3):
        chosen = [i for i in indices[token, 0, : lengths[token]].tolist() if 0 <= i < 100]
        want = attend(query[token], keys[chosen, 0], 0.05)
        torch.testing.assert_close(out[token].double(), want[0], atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(lse[token].double(), want[1], atol=1e-3, rtol=1e-3)
        most = (query[token].double() @ keys[chosen, 0].double().T * 0.05).amax(-1)
        torch.testing.assert_close(largest[token].double(), most, atol=1e-3, rtol=1e-3)


def test_what_has_no_kernel_is_one_sentence(ops: object) -> None:
    extension = torch.ops._flashmla_extension_C
    one = torch.zeros(1, dtype=torch.int32)
    fp8 = torch.zeros(1, 1, 16, 576).to(torch.float8_e4m3fn)
    query, cache = torch.zeros(1, 1, 64, 576).bfloat16(), torch.zeros(1, 64, 1, 576).bfloat16()
    bytes_ = torch.zeros(1, 64, 1, 584, dtype=torch.uint8)
    new = FlashMLASchedMeta

    def decode(*args: object, **kwargs: object) -> None:
        flash_mla.flash_mla_with_kvcache(*args, **kwargs)  # type: ignore[arg-type]

    calls = {
        "get_mla_decoding_metadata_dense_fp8: 2 heads of keys": [
            lambda: extension.get_mla_decoding_metadata_dense_fp8(one, 16, 2)
        ],
        "fwd_kvcache_mla_fp8: a query of 512 columns": [
            lambda: extension.fwd_kvcache_mla_fp8(
                fp8[..., :512], fp8, 512, one, one[None], 0.1, True, one, one, None, None
            )
        ],
        "dense_prefill_fwd: dense prefill is not served": [flash_mla.flash_attn_varlen_func],
        r"sparse_decode_fwd: a second cache \(DeepSeek-V4\) is not served": [
            lambda: decode(
                query,
                bytes_,
                None,
                None,
                512,
                new(),
                is_fp8_kvcache=True,
                indices=one[None, None],
                extra_k_cache=bytes_,
            )
        ],
        "sparse_decode_fwd: keys of 584 bytes": [
            lambda: decode(
                query, bytes_, None, None, 512, new(), is_fp8_kvcache=True, indices=one[None, None]
            )
        ],
        "dense_decode_fwd: a query of 512 columns": [
            lambda: decode(query[..., :512], cache, one[None], one, 512, new())
        ],
        "batch invariance is not served": [
            lambda: decode(query, cache, one[None], one, 512, new(), enable_batch_invariant=True)
        ],
    }
    for sentence, several in calls.items():
        for call in several:
            with pytest.raises(NotImplementedError, match=sentence) as raised:
                call()
            assert "\n" not in str(raised.value)


def test_not_there_without_kernels() -> None:
    assert engine_api.cuda_problem(flash_mla.OP) is not None
    assert flash_mla.problem() == engine_api.cuda_problem(flash_mla.OP)


def test_a_float8_cache_has_a_function_of_its_own() -> None:
    one = torch.zeros(1, dtype=torch.int32)
    fp8 = torch.zeros(1, 1, 16, 576).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="is attended by fwd_kvcache_mla_fp8"):
        flash_mla.flash_mla_with_kvcache(
            fp8, fp8, one[None], one, 512, FlashMLASchedMeta(), is_fp8_kvcache=True
        )
