// Checks of what W4A8 does beside the products.
#include <algorithm>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"
#include "cuda/wna16/checks.h"
#include "cuda/wna16/w4a8/launch.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

void CheckSizes(const char* op, const char* name, int64_t k, int64_t n) {
  VK_CHECK(k > 0 && k % 64 == 0 && n > 0 && n % 64 == 0 && k <= INT32_MAX && n <= INT32_MAX,
           "%s: %s has %lld rows and %lld columns, want multiples of 64", op, name, Print(k),
           Print(n));
}

// Words of 8 signed weights, [k / 8, n], or of one matrix an expert, [experts, n, k / 8].
void Encode(const char* op, const vk_tensor* out, const vk_tensor* strides, const vk_tensor* b,
            void* stream) {
  const Arg words(op, "b", b);
  const bool experts = strides != nullptr;
  words.Dtype({VK_I32}).Dims(experts ? 3 : 2);
  Arg(op, "out", out).Dtype({VK_I32}).SameShape(words).Contiguous();
  const int word_dim = experts ? 2 : 0;
  Int4Repack repack = {};
  const int64_t k = words.size(word_dim) * 8, n = words.size(1);
  CheckSizes(op, "b", k, n);
  repack.in = static_cast<const uint32_t*>(b->data);
  repack.out = static_cast<uint32_t*>(out->data);
  repack.word_stride = words.stride(word_dim);
  repack.column_stride = words.stride(1);
  repack.matrices = experts ? words.size(0) : 1;
  repack.matrix_stride = experts ? words.stride(0) : 0;
  repack.n = static_cast<int>(n);
  repack.k = static_cast<int>(k);
  VK_CHECK(repack.matrices <= 65535, "%s: b has %lld experts, want at most 65535", op,
           Print(repack.matrices));
  if (experts) {
    Arg(op, "strides", strides).Dtype({VK_I64}).Dims(1).Size(0, repack.matrices).Contiguous();
    repack.strides = static_cast<int64_t*>(strides->data);
  }
  if (repack.matrices > 0) LaunchInt4Repack(op, repack, AsStream(stream));
}

// A result in bfloat16 that is rescaled in place.
void CheckResult(const char* op, const Arg& c) {
  c.Dtype({VK_BF16}).Dims(2).Contiguous();
  VK_CHECK(c.size(1) % 8 == 0 && RowsAligned(c.tensor(), 16),
           "%s: %s has shape %s, want rows of whole 16 bytes", op, c.name(),
           ShapeString(c.tensor()).c_str());
}

ExpertRows CheckExperts(const char* op, const vk_w4a8_experts* given) {
  const Arg offsets(op, "expert_offsets", given->expert_offsets);
  offsets.Dtype({VK_I64}).Dims(1).Contiguous();
  ExpertRows experts = {};
  const int64_t count = offsets.size(0);
  VK_CHECK(count > 0 && count <= kW4A8MaxExperts,
           "%s: expert_offsets has %lld experts, want 1 to %d", op, Print(count), kW4A8MaxExperts);
  Arg(op, "problem_sizes", given->problem_sizes)
      .Dtype({VK_I32})
      .Dims(2)
      .Size(0, count)
      .Size(1, 3)
      .Contiguous();
  const Arg sorted(op, "sorted", given->sorted), owners(op, "owners", given->owners);
  owners.Dtype({VK_I32}).Dims(1).Contiguous();
  const int64_t tiles = owners.size(0);
  VK_CHECK(given->block > 0 && given->block <= INT32_MAX && tiles <= INT32_MAX / given->block &&
               given->rows >= 0 && given->rows <= INT32_MAX,
           "%s: %lld tiles of %lld rows, of %lld in all, want less than 2^31", op, Print(tiles),
           Print(given->block), Print(given->rows));
  sorted.Dtype({VK_I32}).Dims(1).Size(0, tiles * given->block).Contiguous();
  Arg(op, "padded", given->padded).Dtype({VK_I32}).Dims(1).Size(0, 1).Contiguous();
  experts.offsets = static_cast<const int64_t*>(given->expert_offsets->data);
  experts.sizes = static_cast<const int32_t*>(given->problem_sizes->data);
  experts.sorted = static_cast<int32_t*>(given->sorted->data);
  experts.owners = static_cast<int32_t*>(given->owners->data);
  experts.padded = static_cast<int32_t*>(given->padded->data);
  experts.experts = static_cast<int>(count);
  experts.block = static_cast<int>(given->block);
  experts.tiles = static_cast<int>(tiles);
  experts.rows = given->rows;
  return experts;
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

vk_status vk_cuda_w4a8_encode(const char* op, const vk_tensor* out, const vk_tensor* strides,
                              const vk_tensor* b, void* stream) {
  return vk::Guard([&] { wna16::Encode(op, out, strides, b, stream); });
}

vk_status vk_cuda_w4a8_pack_scales(const char* op, const vk_tensor* out, const vk_tensor* scales,
                                   void* stream) {
  return vk::Guard([&] {
    const vk::Arg from(op, "scales", scales), to(op, "out", out);
    from.Dtype({VK_F8E4M3}).MinDims(2).Contiguous();
    to.Dtype({VK_F8E4M3}).Dims(scales->ndim).Contiguous();
    const int64_t n = from.size(-1), groups = from.size(-2);
    VK_CHECK(n % 64 == 0 && n <= INT32_MAX, "%s: scales has %lld columns, want a multiple of 64",
             op, vk::Print(n));
    to.Size(-1, 2 * n);
    VK_CHECK(vk::NumElements(*out) == 2 * vk::NumElements(*scales),
             "%s: out has shape %s, want two for each of scales", op,
             vk::ShapeString(*out).c_str());
    wna16::LaunchPackScales(op, out->data, scales->data, n > 0 ? vk::NumElements(*scales) / n : 0,
                            groups, static_cast<int>(n), vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_w4a8_widen(const char* op, const vk_tensor* out, const vk_tensor* a,
                             const vk_tensor* locks, void* stream) {
  return vk::Guard([&] {
    const vk::Arg from(op, "a", a), to(op, "out", out);
    from.Dtype({VK_F8E4M3}).Dims(2).LastDimContiguous();
    to.Dtype({VK_BF16}).Dims(2).SameShape(from).Contiguous();
    VK_CHECK(from.size(1) % 16 == 0, "%s: a has %lld columns, want a multiple of 16", op,
             vk::Print(from.size(1)));
    vk::cuda::CheckRowsAligned(op, from, 16);
    vk::Arg(op, "workspace", locks).Dtype({VK_I32}).Dims(1).Contiguous();
    wna16::LaunchWiden(op, out->data, a->data, from.stride(0), from.size(0), from.size(1),
                       static_cast<int32_t*>(locks->data), locks->shape[0],
                       vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_w4a8_rescale(const char* op, const vk_tensor* c, const vk_tensor* token_scales,
                               const vk_tensor* channel_scales, void* stream) {
  return vk::Guard([&] {
    const vk::Arg result(op, "c", c);
    wna16::CheckResult(op, result);
    const int64_t m = result.size(0), n = result.size(1);
    wna16::LaunchRescale(op, c->data, wna16::Factors(op, "token_scales", token_scales, m),
                         wna16::Factors(op, "channel_scales", channel_scales, n), m, n,
                         vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_w4a8_expert_tiles(const char* op, const vk_w4a8_experts* experts, void* stream) {
  return vk::Guard([&] {
    wna16::LaunchExpertTiles(op, wna16::CheckExperts(op, experts), vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_w4a8_rescale_experts(const char* op, const vk_tensor* c,
                                       const vk_w4a8_experts* experts,
                                       const vk_tensor* channel_scales, void* stream) {
  return vk::Guard([&] {
    const vk::Arg result(op, "out_tensors", c);
    wna16::CheckResult(op, result);
    const wna16::ExpertRows rows = wna16::CheckExperts(op, experts);
    result.Size(0, rows.rows);
    const int64_t n = result.size(1);
    wna16::LaunchRescaleExperts(op, c->data, rows,
                                wna16::Factors(op, "b_scales", channel_scales, rows.experts * n), n,
                                vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
