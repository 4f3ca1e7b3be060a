// Checks of the products with scales of blocks.
#include "cuda/moe_gemm/blocks.h"

#include <algorithm>

#include "core/check.h"
#include "core/status.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"
#include "cuda/moe_gemm/moe_gemm.h"
#include "cuda/sm90/device.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::CeilDiv;
using vk::cuda::CheckRowsAligned;
using vk::cuda::moe_gemm::BlocksCall;
using vk::cuda::moe_gemm::kFewTokens;
using vk::cuda::moe_gemm::kMaxExperts;
using vk::cuda::moe_gemm::kScaleBlock;
using vk::cuda::moe_gemm::PlanCounted;
using vk::cuda::moe_gemm::PlanLabelled;
using vk::cuda::sm90::CurrentHopper;

int32_t Size(const char* op, const char* name, int64_t size, int64_t least) {
  VK_CHECK(size >= least && size <= INT32_MAX - kScaleBlock,
           "%s: %s is %lld, want %lld to 2^31 - 129", op, name, Print(size), Print(least));
  return static_cast<int32_t>(size);
}

// What both layouts have; `batched`: out and a have the experts first.
BlocksCall Check(const char* op, const vk_tensor* out, const vk_tensor* a,
                 const vk_tensor* a_scales, const vk_tensor* b, const vk_tensor* b_scales,
                 bool batched) {
  const int32_t dims = batched ? 3 : 2, row = dims - 2;
  const Arg tokens(op, "a", a), weights(op, "b", b), result(op, "out", out);
  tokens.Dtype({VK_F8E4M3}).Dims(dims).LastDimContiguous();
  weights.Dtype({VK_F8E4M3}).Dims(3).LastDimContiguous().Size(2, tokens.size(row + 1));
  result.Dtype({VK_BF16}).Dims(dims).LastDimContiguous();
  result.Size(row, tokens.size(row)).Size(row + 1, weights.size(1));
  const int64_t experts = weights.size(0);
  VK_CHECK(experts >= 1 && experts <= kMaxExperts, "%s: %lld experts, want 1 to %d", op,
           Print(experts), kMaxExperts);

  BlocksCall call = {};
  call.blocks.rows = Size(op, "the number of rows", tokens.size(row), 0);
  call.blocks.n = Size(op, "n", weights.size(1), 0);
  call.blocks.k = Size(op, "k", weights.size(2), 1);
  call.blocks.experts = static_cast<int32_t>(experts);
  VK_CHECK(call.blocks.n % 8 == 0, "%s: n is %d, want a multiple of 8", op, call.blocks.n);
  for (const Arg* one : {&tokens, &weights, &result}) CheckRowsAligned(op, *one, 16);

  const int64_t chunks = CeilDiv(weights.size(2), kScaleBlock);
  const Arg token_scales(op, "a_scales", a_scales), weight_scales(op, "b_scales", b_scales);
  token_scales.Dtype({VK_F32}).Dims(dims).Size(row, tokens.size(row)).Size(row + 1, chunks);
  weight_scales.Dtype({VK_F32}).Dims(3).Size(0, experts).Size(2, chunks);
  weight_scales.Size(1, CeilDiv(weights.size(1), kScaleBlock));
  if (batched) {
    for (const Arg* one : {&tokens, &result, &token_scales}) one->Size(0, experts);
    call.blocks.out_expert = result.stride(0);
    call.blocks.token_scale_expert = token_scales.stride(0);
    call.token_expert = tokens.stride(0);
  }
  call.blocks.out = out->data;
  call.blocks.out_row = result.stride(row);
  call.blocks.token_scales = static_cast<const float*>(a_scales->data);
  call.blocks.token_scale_row = token_scales.stride(row);
  call.blocks.token_scale_chunk = token_scales.stride(row + 1);
  call.blocks.weight_scales = static_cast<const float*>(b_scales->data);
  call.blocks.weight_scale_expert = weight_scales.stride(0);
  call.blocks.weight_scale_row = weight_scales.stride(1);
  call.blocks.weight_scale_chunk = weight_scales.stride(2);
  call.tokens = a->data;
  call.token_row = tokens.stride(row);
  call.weights = b->data;
  call.weight_row = weights.stride(1);
  call.weight_expert = weights.stride(0);
  return call;
}

bool Empty(const BlocksCall& call) { return call.blocks.rows == 0 || call.blocks.n == 0; }

}  // namespace

extern "C" {

vk_status vk_cuda_grouped_mm_labelled(const vk_tensor* out, const vk_tensor* a,
                                      const vk_tensor* a_scales, const vk_tensor* b,
                                      const vk_tensor* b_scales, const vk_tensor* labels,
                                      int64_t alignment, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "grouped_mm_labelled";
    BlocksCall call = Check(kOp, out, a, a_scales, b, b_scales, false);
    Arg(kOp, "labels", labels).Dtype({VK_I32}).Dims(1).Size(0, call.blocks.rows).Contiguous();
    VK_CHECK(alignment > 0 && alignment % kFewTokens == 0,
             "%s: alignment is %lld, want a multiple of %d", kOp, Print(alignment), kFewTokens);
    if (Empty(call)) return;
    call.blocks.labels = static_cast<const int32_t*>(labels->data);
    const vk::cuda::moe_gemm::Blocks& b = call.blocks;
    const int sms = CurrentHopper(kOp).multiprocessors;
    RunBlocks(kOp, call, PlanLabelled(b.rows, b.n, b.k, alignment, sms),
              vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_grouped_mm_counted(const vk_tensor* out, const vk_tensor* a,
                                     const vk_tensor* a_scales, const vk_tensor* b,
                                     const vk_tensor* b_scales, const vk_tensor* counts,
                                     int64_t expected, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "grouped_mm_counted";
    BlocksCall call = Check(kOp, out, a, a_scales, b, b_scales, true);
    Arg(kOp, "counts", counts).Dtype({VK_I32}).Dims(1).Size(0, call.blocks.experts).Contiguous();
    if (Empty(call)) return;
    call.blocks.counts = static_cast<const int32_t*>(counts->data);
    // No more than there are, whatever the caller expects.
    const vk::cuda::moe_gemm::Blocks& b = call.blocks;
    const int64_t rows = std::min<int64_t>(expected, b.rows);
    const int sms = CurrentHopper(kOp).multiprocessors;
    RunBlocks(kOp, call, PlanCounted(b.experts, b.n, b.k, rows, sms), vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
