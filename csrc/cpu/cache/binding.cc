#include "cpu/cache/cache.h"

#include "torch/bind.h"

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

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, cpu_attn_reshape_and_cache, vk::binding::ReshapeAndCache);
VK_BIND(CPU, compute_slot_mapping_kernel_impl, vk_cpu_compute_slot_mapping);
