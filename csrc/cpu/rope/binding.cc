#include "cpu/rope/rope.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void RotaryEmbedding(const Tensor& positions, const Tensor& query, const std::optional<Tensor>& key,
                     int64_t head_size, const Tensor& cos_sin_cache, bool is_neox,
                     int64_t rope_dim_offset, bool inverse) {
  const char* op = "rotary_embedding";
  Check(vk_cpu_rotary_embedding(
      View(op, "positions", positions), View(op, "query", query), View(op, "key", key), head_size,
      View(op, "cos_sin_cache", cos_sin_cache), is_neox, rope_dim_offset, inverse));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
  library.impl("rotary_embedding", TORCH_BOX(&vk::binding::RotaryEmbedding));
}
