"""Which attention the engine takes on a GPU, and what ours computes over its cache."""

from __future__ import annotations

from conftest import Engine
from cuda_engine import ASK, REFERENCE


def test_our_attention_is_chosen_where_it_serves(cuda: Engine) -> None:
    code = f"""
        from pretend import torch
        {ASK}
        from select_backend import AttentionBackendEnum, chosen, flash_attention
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        flash_attention.problem = lambda: None
        chosen()
        chosen(dtype=torch.float32)
        chosen(head_size=512)
        chosen(wanted=AttentionBackendEnum.FLASH_ATTN)
        """
    done = cuda.run(code, **REFERENCE)
    assert done.stdout.split()[1:] == ["CUSTOM", "FLASH_ATTN", "FLASH_ATTN", "FLASH_ATTN"]
    left = cuda.run(code, **REFERENCE, VLLM_KERNELS_ATTENTION="engine")
    assert left.stdout.split()[1:] == ["FLASH_ATTN"] * 4


def test_flashinfer_is_refused_without_its_modules(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from select_backend import AttentionBackendEnum, chosen
        chosen(wanted=AttentionBackendEnum.FLASHINFER)
        """,
        **REFERENCE,
    )
    assert done.stdout.splitlines()[1:] == [
        "the attention backend FLASHINFER cannot be used: FlashInfer is not installed"
    ]


def test_it_is_refused_with_the_configuration(cuda: Engine) -> None:
    """In the user's own process, before any layer is built; automatic choice asks nothing."""
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from types import SimpleNamespace as Some
        from select_backend import AttentionBackendEnum
        from vllm_kernels_plugin import needs
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        needs.check = lambda *_: None
        model = Some(
            use_mla=False, get_head_size=lambda: 64, dtype=torch.bfloat16, is_attention_free=False
        )
        config = Some(
            additional_config={{}}, parallel_config=Some(world_size=1, tensor_parallel_size=1),
            model_config=model, cache_config=Some(cache_dtype="auto"),
            attention_config=Some(backend=None),
        )
        KernelsCudaPlatform.check_and_update_config(config)
        config.attention_config.backend = AttentionBackendEnum.FLASHINFER
        model.is_attention_free = True
        KernelsCudaPlatform.check_and_update_config(config)
        model.is_attention_free = False
        try:
            KernelsCudaPlatform.check_and_update_config(config)
        except ValueError as error:
            print(error)
        """,
        **REFERENCE,
    )
    assert done.stdout.splitlines()[1:] == [
        "the attention backend FLASHINFER cannot be used: FlashInfer is not installed"
    ], done.stderr


def test_without_attention_kernels_the_engines_own_are_taken(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from select_backend import AttentionBackendEnum, chosen, flash_attention
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        flash_attention.problem = lambda: "attention: this build has 9.0a; this GPU is 8.6"
        chosen()
        chosen(wanted=AttentionBackendEnum.FLASH_ATTN)
        print([one.name for one in KernelsCudaPlatform.get_supported_vit_attn_backends()])
        """,
        **REFERENCE,
    )
    assert done.stdout.splitlines()[1:] == [
        "TRITON_ATTN",
        "the attention backend FLASH_ATTN cannot be used: attention: this build has 9.0a; "
        "this GPU is 8.6",
        "['TRITON_ATTN']",
    ], done.stderr


def test_bad_choice_of_attention_is_a_sentence(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        try:
            KernelsCudaPlatform.check_and_update_config(None)
        except ValueError as error:
            print(error)
        """,
        **REFERENCE,
        VLLM_KERNELS_ATTENTION="triton",
    )
    assert done.stdout.splitlines()[1:] == [
        "VLLM_KERNELS_ATTENTION=triton is not one of: auto, engine"
    ], done.stderr


def test_backend_attends_over_the_engines_cache(cuda: Engine) -> None:
    done = cuda.run(
        """
        from pretend import torch
        from types import SimpleNamespace as Space
        from torch.nn.functional import scaled_dot_product_attention
        from vllm_kernels_plugin.attention import KernelsAttentionImpl
        torch.manual_seed(0)
        size, slots, heads, groups = 64, 16, 2, 2
        layer = Space(_k_scale=torch.ones(()), _v_scale=torch.ones(()))
        draw = lambda n, h: torch.randn(n, h, size, dtype=torch.bfloat16)
        # Two requests: 5 new tokens after 20 in the cache, and 18 new ones.
        past, new = (20, 0), (5, 18)
        keys = [draw(a + b, heads) for a, b in zip(past, new)]
        values = [draw(a + b, heads) for a, b in zip(past, new)]
        query = draw(sum(new), heads * groups)
        table = torch.tensor([[3, 1], [0, 4]], dtype=torch.int32)
        where = [
            torch.tensor([int(table[r, i // slots]) * slots + i % slots for i in range(a + b)])
            for r, (a, b) in enumerate(zip(past, new))
        ]
        join = lambda parts: torch.cat([part[a:] for part, a in zip(parts, past)])
        metadata = Space(
            num_actual_tokens=sum(new),
            query_start_loc=torch.tensor([0, 5, 23], dtype=torch.int32),
            seq_lens=torch.tensor([25, 18], dtype=torch.int32),
            max_query_len=18, max_seq_len=25, block_table=table, causal=True,
        )
        for order in ((0, 2, 1, 3), (0, 1, 2, 3)):  # NHD and HND memory, one logical shape
            memory = [(5, heads, slots, 2 * size)[dim] for dim in order]
            cache = torch.full(memory, 9.0, dtype=torch.bfloat16).permute(order)
            for window in (-1, 7):
                impl = KernelsAttentionImpl(
                    heads * groups, size, size**-0.5, heads, (window, 0 if window > 0 else -1)
                )
                impl._writes = True
                impl.do_kv_cache_update(
                    layer, keys[0][:20], values[0][:20], cache, where[0][:20]
                )
                spare = torch.tensor([-1, -1])
                impl.do_kv_cache_update(
                    layer, join(keys), join(values), cache, torch.cat([join(where), spare])
                )
                out = torch.full((25, heads * groups, size), 7.0, dtype=torch.bfloat16)
                padded = torch.cat([query, query[:2]])
                impl.forward(layer, padded, None, None, cache, metadata, out)
                assert torch.all(out[23:] == 7)
                at = 0
                for key, value, a, b in zip(keys, values, past, new):
                    q, k, v = (
                        part.transpose(0, 1).float()
                        for part in (query[at : at + b], key, value)
                    )
                    k, v = (part.repeat_interleave(groups, 0) for part in (k, v))
                    mask = torch.ones(b, a + b).tril(a)
                    if window > 0:
                        mask = mask.triu(a - window)
                    wanted = scaled_dot_product_attention(q, k, v, attn_mask=mask.bool())
                    found = out[at : at + b].transpose(0, 1).float()
                    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
                    at += b
        print("right")
        """,
        **REFERENCE,
    )
    assert done.stdout.split() == ["right"], done.stderr


def test_flash_attention_interface(cuda: Engine) -> None:
    done = cuda.run(
        """
        from pretend import torch
        from torch.nn.functional import scaled_dot_product_attention
        from vllm_kernels_plugin.flash_attention import flash_attn_varlen_func
        torch.manual_seed(0)
        # Latent attention's prefill: another head size of the values, log-sum-exp returned.
        q, k = torch.randn(9, 4, 192), torch.randn(9, 4, 192)
        v = torch.randn(9, 4, 128)
        q, k, v = (part.bfloat16() for part in (q, k, v))
        starts = torch.tensor([0, 2, 9], dtype=torch.int32)
        out, lse = flash_attn_varlen_func(
            q, k, v, 7, starts, 7, cu_seqlens_k=starts, softmax_scale=0.1, causal=True,
            return_softmax_lse=True, fa_version=2,
        )
        assert out.shape == (9, 4, 128) and lse.shape == (4, 9)
        for begin, end in ((0, 2), (2, 9)):
            parts = [part[begin:end].transpose(0, 1).float() for part in (q, k, v)]
            wanted = scaled_dot_product_attention(*parts, is_causal=True, scale=0.1)
            found = out[begin:end].transpose(0, 1).float()
            torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
            logits = 0.1 * parts[0] @ parts[1].transpose(1, 2)
            hidden = torch.ones(end - begin, end - begin).triu(1).bool()
            wanted = logits.masked_fill(hidden, float("-inf")).logsumexp(-1)
            torch.testing.assert_close(lse[:, begin:end], wanted, atol=2e-2, rtol=2e-2)
        try:
            flash_attn_varlen_func(q, k, v, 7, starts, 7, cu_seqlens_k=starts, dropout_p=0.1)
        except NotImplementedError as error:
            print(error)
        """,
        **REFERENCE,
    )
    assert "dropout_p is not served by vllm_kernels" in done.stdout, done.stderr
