#include "cuda/cache/cache.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

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

VK_BIND(CUDA, reshape_and_cache_flash, vk_cuda_reshape_and_cache_flash);
VK_BIND(CUDA, reshape_and_cache, vk_cuda_reshape_and_cache);
VK_BIND(CUDA, concat_and_cache_mla, vk_cuda_concat_and_cache_mla);
VK_BIND(CUDA, concat_and_cache_mla_rope_fused, vk_cuda_concat_and_cache_mla_rope_fused, kv_c);
VK_BIND(CUDA, cp_gather_and_upconvert_fp8_kv_cache, vk_cuda_cp_gather_and_upconvert_fp8_kv_cache);
VK_BIND(CUDA, indexer_k_quant_and_cache, vk_cuda_indexer_k_quant_and_cache);
VK_BIND(CUDA, cp_gather_indexer_k_quant_cache, vk_cuda_cp_gather_indexer_k_quant_cache);
VK_BIND(CUDA, concat_mla_q, vk_cuda_concat_mla_q);
VK_BIND(CUDA, gather_and_maybe_dequant_cache, vk_cuda_gather_and_maybe_dequant_cache);
VK_BIND(CUDA, cp_gather_cache, vk_cuda_cp_gather_cache);
VK_BIND(CUDA, convert_fp8, vk_cuda_convert_fp8, dst_cache);
VK_IMPL(CUDA, swap_blocks, vk::binding::SwapBlocks);

// All of its tensors are on the CPU.
VK_IMPL(CPU, swap_blocks_batch, vk::binding::SwapBlocksBatch);
VK_BIND(CUDA, concat_and_cache_mla_grouped, vk_cuda_concat_and_cache_mla_grouped);
