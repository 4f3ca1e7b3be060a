#include "cuda/cache/cache.h"

#include "torch/cuda_stream.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void ReshapeAndCacheFlash(const Tensor& key, const Tensor& value, const Tensor& key_cache,
                          const Tensor& value_cache, const Tensor& slot_mapping,
                          const std::string& kv_cache_dtype, const Tensor& k_scale,
                          const Tensor& v_scale) {
  const CudaScope scope("reshape_and_cache_flash", key);
  Check(vk_cuda_reshape_and_cache_flash(
      scope.View("key", key), scope.View("value", value), scope.View("key_cache", key_cache),
      scope.View("value_cache", value_cache), scope.View("slot_mapping", slot_mapping),
      kv_cache_dtype.c_str(), scope.View("k_scale", k_scale), scope.View("v_scale", v_scale),
      scope.stream()));
}

void ReshapeAndCache(const Tensor& key, const Tensor& value, const Tensor& key_cache,
                     const Tensor& value_cache, const Tensor& slot_mapping,
                     const std::string& kv_cache_dtype, const Tensor& k_scale,
                     const Tensor& v_scale) {
  const CudaScope scope("reshape_and_cache", key);
  Check(vk_cuda_reshape_and_cache(
      scope.View("key", key), scope.View("value", value), scope.View("key_cache", key_cache),
      scope.View("value_cache", value_cache), scope.View("slot_mapping", slot_mapping),
      kv_cache_dtype.c_str(), scope.View("k_scale", k_scale), scope.View("v_scale", v_scale),
      scope.stream()));
}

void ConcatAndCacheMla(const Tensor& kv_c, const Tensor& k_pe, const Tensor& kv_cache,
                       const Tensor& slot_mapping, const std::string& kv_cache_dtype,
                       const Tensor& scale) {
  const CudaScope scope("concat_and_cache_mla", kv_c);
  Check(vk_cuda_concat_and_cache_mla(
      scope.View("kv_c", kv_c), scope.View("k_pe", k_pe), scope.View("kv_cache", kv_cache),
      scope.View("slot_mapping", slot_mapping), kv_cache_dtype.c_str(), scope.View("scale", scale),
      scope.stream()));
}

void ConcatAndCacheMlaRope(const Tensor& positions, const Tensor& q_pe, const Tensor& k_pe,
                           const Tensor& kv_c, const Tensor& cos_sin_cache, bool is_neox,
                           const Tensor& slot_mapping, const Tensor& kv_cache,
                           const std::string& kv_cache_dtype, const Tensor& scale) {
  const CudaScope scope("concat_and_cache_mla_rope_fused", kv_c);
  Check(vk_cuda_concat_and_cache_mla_rope_fused(
      scope.View("positions", positions), scope.View("q_pe", q_pe), scope.View("k_pe", k_pe),
      scope.View("kv_c", kv_c), scope.View("cos_sin_cache", cos_sin_cache), is_neox,
      scope.View("slot_mapping", slot_mapping), scope.View("kv_cache", kv_cache),
      kv_cache_dtype.c_str(), scope.View("kv_cache_scale", scale), scope.stream()));
}

void ConcatMlaQ(const Tensor& ql_nope, const Tensor& q_pe, const Tensor& q_out) {
  const CudaScope scope("concat_mla_q", ql_nope);
  Check(vk_cuda_concat_mla_q(scope.View("ql_nope", ql_nope), scope.View("q_pe", q_pe),
                             scope.View("q_out", q_out), scope.stream()));
}

void GatherAndMaybeDequant(const Tensor& src_cache, const Tensor& dst, const Tensor& block_table,
                           const Tensor& cu_seq_lens, const Tensor& token_to_seq,
                           int64_t num_tokens, const std::string& kv_cache_dtype,
                           const Tensor& scale, const std::optional<Tensor>& seq_starts) {
  const CudaScope scope("gather_and_maybe_dequant_cache", src_cache);
  Check(vk_cuda_gather_and_maybe_dequant_cache(
      scope.View("src_cache", src_cache), scope.View("dst", dst),
      scope.View("block_table", block_table), scope.View("cu_seq_lens", cu_seq_lens),
      scope.View("token_to_seq", token_to_seq), num_tokens, kv_cache_dtype.c_str(),
      scope.View("scale", scale), scope.View("seq_starts", seq_starts), scope.stream()));
}

void CpGatherAndUpconvert(const Tensor& src_cache, const Tensor& dst, const Tensor& block_table,
                          const Tensor& workspace_starts, int64_t batch_size,
                          const std::optional<Tensor>& seq_starts) {
  const CudaScope scope("cp_gather_and_upconvert_fp8_kv_cache", src_cache);
  Check(vk_cuda_cp_gather_and_upconvert_fp8_kv_cache(
      scope.View("src_cache", src_cache), scope.View("dst", dst),
      scope.View("block_table", block_table), scope.View("workspace_starts", workspace_starts),
      batch_size, scope.View("seq_starts", seq_starts), scope.stream()));
}

void IndexerKQuantAndCache(const Tensor& k, const Tensor& kv_cache, const Tensor& slot_mapping,
                           int64_t quant_block_size, const std::string& scale_format) {
  const CudaScope scope("indexer_k_quant_and_cache", k);
  Check(vk_cuda_indexer_k_quant_and_cache(scope.View("k", k), scope.View("kv_cache", kv_cache),
                                          scope.View("slot_mapping", slot_mapping),
                                          quant_block_size, scale_format.c_str(), scope.stream()));
}

void CpGatherIndexerKQuantCache(const Tensor& kv_cache, const Tensor& dst_k,
                                const Tensor& dst_scale, const Tensor& block_table,
                                const Tensor& cu_seq_lens) {
  const CudaScope scope("cp_gather_indexer_k_quant_cache", kv_cache);
  Check(vk_cuda_cp_gather_indexer_k_quant_cache(
      scope.View("kv_cache", kv_cache), scope.View("dst_k", dst_k),
      scope.View("dst_scale", dst_scale), scope.View("block_table", block_table),
      scope.View("cu_seq_lens", cu_seq_lens), scope.stream()));
}

void CpGatherCache(const Tensor& src_cache, const Tensor& dst, const Tensor& block_table,
                   const Tensor& cu_seq_lens, int64_t batch_size,
                   const std::optional<Tensor>& seq_starts) {
  const CudaScope scope("cp_gather_cache", src_cache);
  Check(vk_cuda_cp_gather_cache(scope.View("src_cache", src_cache), scope.View("dst", dst),
                                scope.View("block_table", block_table),
                                scope.View("cu_seq_lens", cu_seq_lens), batch_size,
                                scope.View("seq_starts", seq_starts), scope.stream()));
}

void ConvertFp8(const Tensor& dst_cache, const Tensor& src_cache, double scale,
                const std::string& kv_cache_dtype) {
  const CudaScope scope("convert_fp8", dst_cache);
  Check(vk_cuda_convert_fp8(scope.View("dst_cache", dst_cache), scope.View("src_cache", src_cache),
                            scale, kv_cache_dtype.c_str(), scope.stream()));
}

// One of the two may be in host memory.
void SwapBlocks(const Tensor& src, const Tensor& dst, int64_t block_size_in_bytes,
                const Tensor& block_mapping) {
  const char* op = "swap_blocks";
  if (!block_mapping.is_cpu()) {
    throw std::runtime_error("swap_blocks: block_mapping is not on the CPU");
  }
  if (!src.is_contiguous() || !dst.is_contiguous()) {
    throw std::runtime_error("swap_blocks: src and dst must be contiguous");
  }
  const CudaScope scope(op, src.is_cuda() ? src : dst);
  const vk_tensor from = ToView(op, "src", src), to = ToView(op, "dst", dst);
  const vk_tensor mapping = ToView(op, "block_mapping", block_mapping);
  Check(vk_cuda_swap_blocks(&from, &to, block_size_in_bytes, &mapping, scope.stream()));
}

// Addresses tell no device: the copies go to the current stream of the current GPU. In stream order
// whatever the last argument allows.
void SwapBlocksBatch(const Tensor& src_ptrs, const Tensor& dst_ptrs, const Tensor& sizes,
                     bool /*is_src_access_order_any*/) {
  const char* op = "swap_blocks_batch";
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("swap_blocks_batch: this PyTorch was built without CUDA");
  }
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(
      torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  Check(vk_cuda_swap_blocks_batch(View(op, "src_ptrs", src_ptrs), View(op, "dst_ptrs", dst_ptrs),
                                  View(op, "sizes", sizes), stream));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
  library.impl("reshape_and_cache_flash", TORCH_BOX(&vk::binding::ReshapeAndCacheFlash));
  library.impl("reshape_and_cache", TORCH_BOX(&vk::binding::ReshapeAndCache));
  library.impl("concat_and_cache_mla", TORCH_BOX(&vk::binding::ConcatAndCacheMla));
  library.impl("concat_and_cache_mla_rope_fused", TORCH_BOX(&vk::binding::ConcatAndCacheMlaRope));
  library.impl("cp_gather_and_upconvert_fp8_kv_cache",
               TORCH_BOX(&vk::binding::CpGatherAndUpconvert));
  library.impl("indexer_k_quant_and_cache", TORCH_BOX(&vk::binding::IndexerKQuantAndCache));
  library.impl("cp_gather_indexer_k_quant_cache",
               TORCH_BOX(&vk::binding::CpGatherIndexerKQuantCache));
  library.impl("concat_mla_q", TORCH_BOX(&vk::binding::ConcatMlaQ));
  library.impl("gather_and_maybe_dequant_cache", TORCH_BOX(&vk::binding::GatherAndMaybeDequant));
  library.impl("cp_gather_cache", TORCH_BOX(&vk::binding::CpGatherCache));
  library.impl("convert_fp8", TORCH_BOX(&vk::binding::ConvertFp8));
  library.impl("swap_blocks", TORCH_BOX(&vk::binding::SwapBlocks));
}

// All of its tensors are on the CPU.
VK_BINDINGS(CPU, library) {
  library.impl("swap_blocks_batch", TORCH_BOX(&vk::binding::SwapBlocksBatch));
}
