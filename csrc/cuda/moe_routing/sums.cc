#include "cuda/common/rows.h"
#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/moe_routing.h"

namespace {

using vk::Arg;
using vk::cuda::RowsAligned;
using vk::cuda::moe_routing::Reduce;
using vk::cuda::moe_routing::SmallGemm;

constexpr int64_t kVectorBytes = 16;

bool WholeVectors(const vk_tensor& input, const vk_tensor& output) {
  return input.stride[input.ndim - 1] == 1 && RowsAligned(input, kVectorBytes) &&
         RowsAligned(output, kVectorBytes) &&
         output.shape[1] * vk::DtypeSize(output.dtype) % kVectorBytes == 0;
}

}  // namespace

extern "C" {

vk_status vk_cuda_moe_sum(const vk_tensor* input, const vk_tensor* output,
                          const vk_tensor* topk_ids, const vk_tensor* expert_map, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_sum";
    const Arg in(op, "input", input), out(op, "output", output);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3);
    out.SameDtype(in).Dims(2).Size(0, in.size(0)).Size(1, in.size(2)).Contiguous();
    Reduce reduce = {};
    reduce.input = input->data;
    reduce.output = output->data;
    reduce.tokens = in.size(0);
    reduce.topk = static_cast<int32_t>(in.size(1));
    reduce.width = in.size(2);
    reduce.token_stride = in.stride(0);
    reduce.entry_stride = in.stride(1);
    reduce.column_stride = in.stride(2);
    reduce.output_stride = out.stride(0);
    if (topk_ids != nullptr) {
      const Arg ids(op, "topk_ids", topk_ids);
      ids.Dtype({VK_I32, VK_I64}).Dims(2).Size(0, in.size(0)).Size(1, in.size(1));
      reduce.ids = topk_ids->data;
      reduce.wide_ids = topk_ids->dtype == VK_I64;
      reduce.id_token_stride = ids.stride(0);
      reduce.id_entry_stride = ids.stride(1);
      if (expert_map != nullptr) {
        const Arg map(op, "expert_map", expert_map);
        map.Dtype({VK_I32}).Dims(1).Contiguous();
        reduce.map = static_cast<const int32_t*>(expert_map->data);
        reduce.map_size = map.size(0);
      }
    }
    LaunchReduce(op, input->dtype, WholeVectors(*input, *output), reduce,
                 vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_moe_unpermute(const vk_tensor* permuted, const vk_tensor* topk_weights,
                                const vk_tensor* inv_permuted_idx,
                                const vk_tensor* expert_first_token_offset, int64_t topk,
                                const vk_tensor* hidden_states, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_unpermute";
    const Arg in(op, "permuted_hidden_states", permuted), out(op, "hidden_states", hidden_states);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    out.SameDtype(in).Dims(2).Size(1, in.size(1)).LastDimContiguous();
    const Arg weights(op, "topk_weights", topk_weights);
    weights.Dtype({VK_F32}).Dims(2).Size(0, out.size(0)).Size(1, topk).Contiguous();
    const Arg index(op, "inv_permuted_idx", inv_permuted_idx);
    index.Dtype({VK_I32}).Contiguous();
    VK_CHECK(vk::NumElements(*inv_permuted_idx) == out.size(0) * topk,
             "%s: inv_permuted_idx has shape %s, want %lld elements, tokens times topk", op,
             vk::ShapeString(*inv_permuted_idx).c_str(),
             static_cast<long long>(out.size(0) * topk));
    Reduce reduce = {};
    reduce.input = permuted->data;
    reduce.output = hidden_states->data;
    reduce.tokens = out.size(0);
    reduce.topk = static_cast<int32_t>(topk);
    reduce.width = in.size(1);
    reduce.token_stride = in.stride(0);
    reduce.column_stride = 1;
    reduce.output_stride = out.stride(0);
    reduce.rows = static_cast<const int32_t*>(inv_permuted_idx->data);
    reduce.weights = static_cast<const float*>(topk_weights->data);
    reduce.input_rows = in.size(0);
    if (expert_first_token_offset != nullptr) {
      const Arg first(op, "expert_first_token_offset", expert_first_token_offset);
      first.Dtype({VK_I64}).Dims(1).Contiguous();
      VK_CHECK(first.size(0) >= 1, "%s: expert_first_token_offset is empty, want the rows' end",
               op);
      reduce.end = static_cast<const int64_t*>(expert_first_token_offset->data) + first.size(0) - 1;
    }
    LaunchReduce(op, permuted->dtype, WholeVectors(*permuted, *hidden_states), reduce,
                 vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_small_gemm(const char* op, const vk_tensor* output, const vk_tensor* a,
                             const vk_tensor* b, void* stream) {
  return vk::Guard([&] {
    const Arg out(op, "output", output), left(op, "mat_a", a), right(op, "mat_b", b);
    left.Dtype({VK_BF16}).Dims(2).LastDimContiguous();
    VK_CHECK(left.size(0) <= 16, "%s: mat_a has shape %s, want at most 16 rows", op,
             vk::ShapeString(*a).c_str());
    VK_CHECK(left.size(1) % 32 == 0, "%s: mat_a has shape %s, want a multiple of 32 columns", op,
             vk::ShapeString(*a).c_str());
    right.Dtype({VK_BF16}).Dims(2).Size(1, left.size(1)).LastDimContiguous();
    out.Dtype({VK_F32, VK_BF16}).Dims(2).Size(0, left.size(0)).Size(1, right.size(0));
    out.LastDimContiguous();
    VK_CHECK(left.size(1) <= INT32_MAX && right.size(0) <= INT32_MAX,
             "%s: mat_b has shape %s, want fewer than 2^31 rows and columns", op,
             vk::ShapeString(*b).c_str());
    VK_CHECK(RowsAligned(*a, kVectorBytes) && RowsAligned(*b, kVectorBytes),
             "%s: rows of mat_a and mat_b are not all aligned to 16 bytes", op);
    SmallGemm gemm = {};
    gemm.a = a->data;
    gemm.b = b->data;
    gemm.output = output->data;
    gemm.a_stride = left.stride(0);
    gemm.b_stride = right.stride(0);
    gemm.output_stride = out.stride(0);
    gemm.m = static_cast<int32_t>(left.size(0));
    gemm.n = static_cast<int32_t>(right.size(0));
    gemm.k = static_cast<int32_t>(left.size(1));
    LaunchSmallGemm(op, output->dtype == VK_F32, gemm, vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
