#include "cpu/cache/cache.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

void ReshapeAndCache(const vk_tensor* key, const vk_tensor* value, const vk_tensor* key_cache,
                     const vk_tensor* value_cache, const vk_tensor* slot_mapping,
                     const std::string& isa, double k_scale, double v_scale,
                     const std::string& kv_cache_dtype) {
  Check(vk_cpu_reshape_and_cache(key, value, key_cache, value_cache, slot_mapping, isa.c_str(),
                                 k_scale, v_scale, kv_cache_dtype.c_str()));
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, cpu_attn_reshape_and_cache, vk::binding::ReshapeAndCache);
VK_BIND(CPU, compute_slot_mapping_kernel_impl, vk_cpu_compute_slot_mapping);
VK_BIND(CPU, concat_and_cache_mla_cpu, vk_cpu_concat_and_cache_mla);
