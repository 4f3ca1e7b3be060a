// Weights of 4 bits with float8 activations.
#include <algorithm>
#include <tuple>
#include <vector>

#include "core/checked.h"
#include "cuda/wna16/binding.h"
#include "cuda/wna16/weight_type.h"

namespace vk::binding {
namespace {

// More than the product on any GPU shares.
constexpr int64_t kLocks = 1024;

// Scales in bfloat16, two bytes of the packed tensor each.
vk_tensor PackedScales(const CudaView& view) {
  vk_tensor scales = *static_cast<const vk_tensor*>(view);
  const int32_t last = scales.ndim - 1;
  scales.dtype = VK_BF16;
  scales.shape[last] /= 2;
  for (int32_t dim = 0; dim < last; ++dim) scales.stride[dim] /= 2;
  return scales;
}

// Encoded weights [..., K / 8 words of N] as repacked ones [..., K / 16, 2 N].
vk_tensor EncodedWeights(const CudaView& view, int64_t k, int64_t n) {
  vk_tensor weights = *static_cast<const vk_tensor*>(view);
  const int32_t last = weights.ndim - 1;
  weights.shape[last - 1] = k / 16;
  weights.shape[last] = weights.stride[last - 1] = 2 * n;
  return weights;
}

void CheckGroups(const char* op, const char* name, const Tensor& scales, int64_t k,
                 int64_t group_size) {
  if (scales.scalar_type() != ScalarType::Float8_e4m3fn) {
    Refuse(op, name, " is not float8_e4m3fn, want what cutlass_pack_scale_fp8 gave");
  }
  const int64_t groups = scales.size(scales.dim() - 2);
  if (group_size > 0 && groups > 0 && groups * group_size == k) return;
  Refuse(op, name,
         " is for " + std::to_string(groups) + " groups of " + std::to_string(group_size) +
             ", want those of " + std::to_string(k) + " rows");
}

void CheckLast(const char* op, const char* name, const Tensor& tensor, int64_t dim, int64_t size) {
  if (tensor.size(dim) == size && tensor.is_contiguous()) return;
  Refuse(op, name, " has another shape than the op before it gave it");
}

// Before the product would say it in another op's name.
void CheckFactors(const char* op, const char* name, const Tensor& tensor, int64_t count) {
  if (tensor.scalar_type() != ScalarType::Float) Refuse(op, name, " is not float32, want that");
  if (!tensor.is_contiguous()) Refuse(op, name, " is not contiguous (call .contiguous())");
  if (tensor.numel() == count) return;
  Refuse(op, name,
         " has shape " + Sizes(tensor.sizes().data(), static_cast<size_t>(tensor.dim())) +
             ", want " + std::to_string(count) + " elements");
}

Tensor Int4Encode(const Tensor& b) {
  const char* op = "cutlass_encode_and_reorder_int4b";
  const CudaScope scope(op, b);
  const Tensor out = scope.NewEmpty("out", b, b.sizes());
  Check(
      vk_cuda_w4a8_encode(op, scope.View("out", out), nullptr, scope.View("B", b), scope.stream()));
  return out;
}

std::tuple<Tensor, Tensor> Int4EncodeGrouped(const Tensor& b) {
  const char* op = "cutlass_encode_and_reorder_int4b_grouped";
  const CudaScope scope(op, b);
  CheckDims(op, "b_tensors", b, 3, "[experts, N, K / 8]");
  const Tensor out = scope.NewEmpty("out", b, b.sizes());
  const Tensor strides = scope.NewEmpty("strides", b, {b.size(0)}, ScalarType::Long);
  Check(vk_cuda_w4a8_encode(op, scope.View("out", out), scope.View("strides", strides),
                            scope.View("b_tensors", b), scope.stream()));
  return {out, strides};
}

Tensor PackScaleFp8(const Tensor& scales) {
  const char* op = "cutlass_pack_scale_fp8";
  const CudaScope scope(op, scales);
  if (scales.dim() < 2) Refuse(op, "scales", " has less than 2 dimensions, want [..., groups, N]");
  std::vector<int64_t> sizes(scales.sizes().begin(), scales.sizes().end());
  sizes.back() = SaturatingMultiply<int64_t>(sizes.back(), 2);
  const Tensor out = scope.NewEmpty("out", scales, SizeList(sizes.data(), sizes.size()));
  Check(vk_cuda_w4a8_pack_scales(op, scope.View("out", out), scope.View("scales", scales),
                                 scope.stream()));
  return out;
}

// `maybe_schedule` chooses among kernels that are not ours.
Tensor W4A8Mm(const Tensor& a, const Tensor& b, const Tensor& group_scales, int64_t group_size,
              const Tensor& channel_scales, const Tensor& token_scales,
              std::optional<ScalarType> out_type, const std::optional<std::string>&) {
  const char* op = "cutlass_w4a8_mm";
  const CudaScope scope(op, a);
  CheckDims(op, "A", a, 2, "[M, K]");
  CheckDims(op, "B", b, 2, "[K / 8, N]");
  CheckDims(op, "group_scales", group_scales, 2, "[groups, 2 N]");
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  if (out_type.value_or(ScalarType::BFloat16) != ScalarType::BFloat16) {
    Refuse(op, "out_type", " is not bfloat16, the only type there is a kernel for");
  }
  if (b.size(0) != k / 8) Refuse(op, "B", " has other rows than A has columns");
  CheckLast(op, "B", b, 1, n);
  CheckLast(op, "group_scales", group_scales, 1, SaturatingMultiply<int64_t>(n, 2));
  CheckGroups(op, "group_scales", group_scales, k, group_size);
  CheckFactors(op, "token_scales", token_scales, m);
  CheckFactors(op, "channel_scales", channel_scales, n);
  const Tensor wide = scope.NewEmpty("a", a, {m, k}, ScalarType::BFloat16);
  const Tensor locks = scope.NewEmpty("workspace", a, {kLocks}, ScalarType::Int);
  const auto wide_view = scope.View("A", wide), locks_view = scope.View("workspace", locks);
  Check(vk_cuda_w4a8_widen(op, wide_view, scope.View("A", a), locks_view, scope.stream()));
  const vk_tensor weights = EncodedWeights(scope.View("B", b), k, n);
  const vk_tensor scales = PackedScales(scope.View("group_scales", group_scales));
  const auto tokens_view = scope.View("token_scales", token_scales),
             channels_view = scope.View("channel_scales", channel_scales);
  const vk_marlin_problem problem = {wide_view, &weights,    nullptr,
                                     &scales,   nullptr,     nullptr,
                                     nullptr,   nullptr,     cuda::wna16::kIdU4B8,
                                     m,         n,           k,
                                     1,         tokens_view, channels_view};
  bool scaled = false;
  const Tensor c =
      Product(scope, op, problem, wide, std::nullopt, std::nullopt, std::nullopt, locks, &scaled);
  if (!scaled) {
    Check(vk_cuda_w4a8_rescale(op, scope.View("c", c), tokens_view, channels_view, scope.stream()));
  }
  return c;
}

// Tiles of as many rows as experts have on average, or more where they are not filled.
int64_t TileOf(int64_t rows, int64_t experts) {
  constexpr int64_t kTiles[] = {8, 16, 32, 48};
  for (const int64_t tile : kTiles) {
    if (rows * 10 < experts * tile * 9) return tile;
  }
  return 64;
}

// Strides follow from the shapes.
void W4A8MoeMm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& a_scales,
               const Tensor& b_scales, const Tensor& group_scales, int64_t group_size,
               const Tensor& expert_offsets, const Tensor& problem_sizes, const Tensor&,
               const Tensor&, const Tensor&, const Tensor&, const std::optional<std::string>&) {
  const char* op = "cutlass_w4a8_moe_mm";
  const CudaScope scope(op, a);
  CheckDims(op, "a_tensors", a, 2, "[rows, K]");
  CheckDims(op, "b_tensors", b, 3, "[experts, N, K / 8]");
  CheckDims(op, "b_group_scales", group_scales, 3, "[experts, groups, 2 N]");
  const int64_t rows = a.size(0), k = a.size(1), experts = b.size(0), n = b.size(1);
  if (b.size(2) != k / 8) Refuse(op, "b_tensors", " has other rows than a_tensors has columns");
  CheckLast(op, "b_tensors", b, 0, expert_offsets.numel());
  CheckLast(op, "b_group_scales", group_scales, 0, experts);
  CheckLast(op, "b_group_scales", group_scales, 2, SaturatingMultiply<int64_t>(n, 2));
  CheckGroups(op, "b_group_scales", group_scales, k, group_size);
  // Before anything is written: they are used last.
  CheckFactors(op, "b_scales", b_scales, SaturatingMultiply<int64_t>(experts, n));
  const int64_t block = TileOf(rows, experts);
  const int64_t tiles = std::min(rows, rows / block + experts);
  if (tiles == 0) return;
  const Tensor wide = scope.NewEmpty("a", a, {rows, k}, ScalarType::BFloat16);
  const Tensor locks = scope.NewEmpty("workspace", a, {kLocks}, ScalarType::Int);
  const Tensor sorted = scope.NewEmpty("rows", a, {tiles * block}, ScalarType::Int);
  const Tensor owners = scope.NewEmpty("experts", a, {tiles}, ScalarType::Int);
  const Tensor padded = scope.NewEmpty("places", a, {1}, ScalarType::Int);
  const auto wide_view = scope.View("a_tensors", wide), c_view = scope.View("out_tensors", out),
             locks_view = scope.View("workspace", locks),
             factors_view = scope.View("a_scales", a_scales),
             offsets_view = scope.View("expert_offsets", expert_offsets),
             sizes_view = scope.View("problem_sizes", problem_sizes),
             sorted_view = scope.View("rows", sorted), owners_view = scope.View("experts", owners),
             padded_view = scope.View("places", padded);
  Check(vk_cuda_w4a8_widen(op, wide_view, scope.View("a_tensors", a), locks_view, scope.stream()));
  const vk_w4a8_experts by_expert = {offsets_view, sizes_view, sorted_view, owners_view,
                                     padded_view,  block,      rows};
  Check(vk_cuda_w4a8_expert_tiles(op, &by_expert, scope.stream()));
  const vk_tensor weights = EncodedWeights(scope.View("b_tensors", b), k, n);
  const vk_tensor scales = PackedScales(scope.View("b_group_scales", group_scales));
  const vk_marlin_problem problem = {wide_view, &weights, nullptr,
                                     &scales,   nullptr,  nullptr,
                                     nullptr,   nullptr,  cuda::wna16::kIdU4B8,
                                     rows,      n,        k,
                                     1,         nullptr,  nullptr};
  const vk_marlin_experts routing = {sorted_view, owners_view, padded_view, factors_view, block, 1};
  int64_t bytes = 0;
  Check(vk_cuda_moe_marlin_scratch(&problem, &routing, kLocks, &bytes));
  const std::optional<Tensor> scratch = scope.NewBytes("scratch", a, bytes);
  Check(vk_cuda_moe_marlin_gemm(c_view, &problem, &routing, locks_view,
                                scope.View("scratch", scratch), scope.stream()));
  Check(vk_cuda_w4a8_rescale_experts(op, c_view, &by_expert, scope.View("b_scales", b_scales),
                                     scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, cutlass_encode_and_reorder_int4b, vk::binding::Int4Encode);
VK_IMPL(CUDA, cutlass_encode_and_reorder_int4b_grouped, vk::binding::Int4EncodeGrouped);
VK_IMPL(CUDA, cutlass_pack_scale_fp8, vk::binding::PackScaleFp8);
VK_IMPL(CUDA, cutlass_w4a8_mm, vk::binding::W4A8Mm);
VK_IMPL(CUDA, cutlass_w4a8_moe_mm, vk::binding::W4A8MoeMm);
