#include "cpu/cache/cache.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

// The scales belong to the quantised cache formats, which the kernel refuses by kv_cache_dtype.
void ReshapeAndCache(const Tensor& key, const Tensor& value, const Tensor& key_cache,
                     const Tensor& value_cache, const Tensor& slot_mapping, const std::string& isa,
                     double /*k_scale*/, double /*v_scale*/, const std::string& kv_cache_dtype) {
  const char* op = "cpu_attn_reshape_and_cache";
  Check(vk_cpu_reshape_and_cache(
      View(op, "key", key), View(op, "value", value), View(op, "key_cache", key_cache),
      View(op, "value_cache", value_cache), View(op, "slot_mapping", slot_mapping), isa.c_str(),
      kv_cache_dtype.c_str()));
}

void ComputeSlotMapping(const Tensor& query_start_loc, const Tensor& positions,
                        const Tensor& block_table, const Tensor& slot_mapping, int64_t block_size) {
  const char* op = "compute_slot_mapping_kernel_impl";
  Check(vk_cpu_compute_slot_mapping(
      View(op, "query_start_loc", query_start_loc), View(op, "positions", positions),
      View(op, "block_table", block_table), View(op, "slot_mapping", slot_mapping), block_size));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
  library.impl("cpu_attn_reshape_and_cache", TORCH_BOX(&vk::binding::ReshapeAndCache));
  library.impl("compute_slot_mapping_kernel_impl", TORCH_BOX(&vk::binding::ComputeSlotMapping));
}
