// Checks of persistent_masked_m_silu_mul_quant.
#include "core/check.h"
#include "core/checked.h"
#include "core/status.h"
#include "cuda/activation/activation.h"
#include "cuda/activation/launch.h"
#include "cuda/common/rows.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::SaturatingMultiply;
using vk::cuda::CeilDiv;
using vk::cuda::CheckRowsAligned;
using vk::cuda::FastDiv;
using vk::cuda::activation::kMaskedExperts;
using vk::cuda::activation::kMaskedGroup;
using vk::cuda::activation::MaskedProblem;
using vk::cuda::activation::MaskedScale;

constexpr char kOp[] = "persistent_masked_m_silu_mul_quant";

}  // namespace

extern "C" vk_status vk_cuda_persistent_masked_m_silu_mul_quant(const vk_tensor* input,
                                                                const vk_tensor* counts,
                                                                const vk_tensor* y_q,
                                                                const vk_tensor* y_s,
                                                                bool use_ue8m0, void* stream) {
  return vk::Guard([&] {
    const Arg in(kOp, "input", input), out(kOp, "y_q", y_q), scales(kOp, "y_s", y_s);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    const int64_t experts = in.size(0), rows = in.size(1), width = in.size(2) / 2;
    VK_CHECK(experts <= kMaskedExperts, "%s: input has %lld experts, want at most %d", kOp,
             Print(experts), kMaskedExperts);
    VK_CHECK(in.size(2) % (2 * kMaskedGroup) == 0,
             "%s: input has %lld columns, want a multiple of %d", kOp, Print(in.size(2)),
             2 * kMaskedGroup);
    out.Dtype({VK_F8E4M3}).Dims(3).Size(0, experts).Size(1, rows).Size(2, width);
    out.LastDimContiguous();
    CheckRowsAligned(kOp, in, 16);
    CheckRowsAligned(kOp, out, 16);
    Arg(kOp, "counts", counts).Dtype({VK_I32}).Dims(1).Size(0, experts).Contiguous();
    const int64_t groups = width / kMaskedGroup;
    const bool packed = y_s->dtype == VK_I32;
    if (use_ue8m0) {
      scales.Dtype({VK_F32, VK_I32});
    } else {
      scales.Dtype({VK_F32});
    }
    scales.Dims(3).Size(0, experts).Size(1, rows).Size(2, packed ? CeilDiv(groups, 4) : groups);
    const int64_t work = SaturatingMultiply(SaturatingMultiply(experts, rows), groups);
    VK_CHECK(work < (int64_t{1} << 31), "%s: input has shape %s, want less than 2^31 groups", kOp,
             vk::ShapeString(*input).c_str());
    if (work == 0) return;

    MaskedProblem problem = {};
    problem.input = input->data;
    problem.out = y_q->data;
    problem.scales = y_s->data;
    problem.counts = static_cast<const int32_t*>(counts->data);
    problem.input_expert = in.stride(0);
    problem.input_row = in.stride(1);
    problem.out_expert = out.stride(0);
    problem.out_row = out.stride(1);
    problem.scale_expert = scales.stride(0);
    problem.scale_row = scales.stride(1);
    problem.scale_group = scales.stride(2);
    problem.width = width;
    problem.groups = FastDiv(static_cast<uint32_t>(groups));
    problem.experts = static_cast<int32_t>(experts);
    problem.rows = static_cast<int32_t>(rows);
    LaunchMasked(problem,
                 packed      ? MaskedScale::kPacked
                 : use_ue8m0 ? MaskedScale::kPower
                             : MaskedScale::kFloat,
                 {kOp, input->dtype, y_q->dtype, true, vk::cuda::AsStream(stream)});
  });
}
