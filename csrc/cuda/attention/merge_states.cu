// merge_attn_states: two partial attention results over disjoint keys become one.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/check.h"
#include "cuda/attention/attention.h"
#include "cuda/common/dtype.cuh"
#include "cuda/common/launch.h"

namespace vk::cuda::attention {
namespace {

constexpr char kOp[] = "merge_attn_states";
constexpr int kThreads = 256;

struct MergeProblem {
  const void* prefix;
  const void* suffix;
  void* output;
  const float* prefix_lse;
  const float* suffix_lse;
  float* output_lse;                                                // or null
  const float* output_scale;                                        // or null
  int64_t prefix_strides[2], suffix_strides[2], output_strides[2];  // of token and head
  int64_t prefix_lse_stride, suffix_lse_stride, output_lse_stride;  // of a head
  int64_t items;  // packs of columns of all tokens and heads
  int32_t heads, packs, head_size;
  int64_t merged;  // tokens that have a prefix
};

template <class S, int kPack>
struct alignas(sizeof(S) * kPack) Columns {
  S value[kPack];
};

// One thread a pack of columns.
template <class S, class Out, int kPack>
__global__ void __launch_bounds__(kThreads)
    MergeStatesKernel(const __grid_constant__ MergeProblem p) {
  const int64_t item = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (item >= p.items) return;
  const int64_t row = item / p.packs;
  const int64_t column = (item - row * p.packs) * kPack;
  const int64_t token = row / p.heads;
  const int64_t head = row - token * p.heads;

  float prefix_weight = 0.0f, suffix_weight = 1.0f, lse;
  const float suffix_lse = p.suffix_lse[head * p.suffix_lse_stride + token];
  bool use_prefix = false;
  if (token >= p.merged) {
    lse = suffix_lse;
  } else {
    const float prefix_lse = p.prefix_lse[head * p.prefix_lse_stride + token];
    // Some producers mark a row without keys by +inf.
    const float a = isinf(prefix_lse) ? -INFINITY : prefix_lse;
    const float b = isinf(suffix_lse) ? -INFINITY : suffix_lse;
    const float top = fmaxf(a, b);
    use_prefix = true;
    if (isinf(top)) {
      prefix_weight = 1.0f;
      suffix_weight = 0.0f;
      lse = -INFINITY;
    } else {
      const float prefix_sum = expf(a - top), suffix_sum = expf(b - top);
      prefix_weight = prefix_sum / (prefix_sum + suffix_sum);
      suffix_weight = suffix_sum / (prefix_sum + suffix_sum);
      lse = logf(prefix_sum + suffix_sum) + top;
    }
  }
  if (p.output_lse != nullptr && column == 0) {
    p.output_lse[head * p.output_lse_stride + token] = lse;
  }
  if (column >= p.head_size) return;  // heads without columns have a sum all the same

  using Pack = Columns<S, kPack>;
  // A side without weight is not read into the sum: it may hold what was there before.
  float values[kPack] = {};
  if (use_prefix && prefix_weight != 0.0f) {
    const Pack pack = *reinterpret_cast<const Pack*>(static_cast<const S*>(p.prefix) +
                                                     token * p.prefix_strides[0] +
                                                     head * p.prefix_strides[1] + column);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = ToFloat(pack.value[i]) * prefix_weight;
  }
  if (suffix_weight != 0.0f) {
    const Pack pack = *reinterpret_cast<const Pack*>(static_cast<const S*>(p.suffix) +
                                                     token * p.suffix_strides[0] +
                                                     head * p.suffix_strides[1] + column);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] += ToFloat(pack.value[i]) * suffix_weight;
  }
  Columns<Out, kPack> result;
  const float inverse = sizeof(Out) == 1 ? 1.0f / *p.output_scale : 1.0f;
#pragma unroll
  for (int i = 0; i < kPack; ++i) result.value[i] = FromFloat<Out>(values[i] * inverse);
  *reinterpret_cast<Columns<Out, kPack>*>(static_cast<Out*>(p.output) +
                                          token * p.output_strides[0] + head * p.output_strides[1] +
                                          column) = result;
}

bool Vectors(const Arg& arg, int64_t pack) {
  const int64_t bytes = pack * DtypeSize(arg.tensor().dtype);
  return reinterpret_cast<uintptr_t>(arg.tensor().data) % bytes == 0 && arg.size(2) % pack == 0 &&
         arg.stride(0) % pack == 0 && arg.stride(1) % pack == 0;
}

template <class S, class Out>
void Launch(MergeProblem problem, bool vector, int64_t rows, int64_t head_size,
            cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(S);
  const int pack = vector ? kPack : 1;
  problem.head_size = static_cast<int32_t>(head_size);
  problem.packs = std::max(1, problem.head_size / pack);
  problem.items = rows * problem.packs;
  const unsigned blocks = GridX(kOp, CeilDiv(problem.items, kThreads));
  if (vector) {
    MergeStatesKernel<S, Out, kPack><<<blocks, kThreads, 0, stream>>>(problem);
  } else {
    MergeStatesKernel<S, Out, 1><<<blocks, kThreads, 0, stream>>>(problem);
  }
}

template <class S>
void Launch(const MergeProblem& problem, bool quantised, bool vector, int64_t rows,
            int64_t head_size, cudaStream_t stream) {
  if (quantised) {
    Launch<S, E4M3>(problem, vector, rows, head_size, stream);
  } else {
    Launch<S, S>(problem, vector, rows, head_size, stream);
  }
}

const float* Lse(const Arg& lse, const Arg& output) {
  lse.Dtype({VK_F32}).Dims(2).Size(0, output.size(1)).Size(1, output.size(0)).LastDimContiguous();
  return static_cast<const float*>(lse.tensor().data);
}

}  // namespace
}  // namespace vk::cuda::attention

extern "C" vk_status vk_cuda_merge_attn_states(
    const vk_tensor* output, const vk_tensor* output_lse, const vk_tensor* prefix_output,
    const vk_tensor* prefix_lse, const vk_tensor* suffix_output, const vk_tensor* suffix_lse,
    int64_t prefill_tokens_with_context, const vk_tensor* output_scale, void* stream) {
  using namespace vk::cuda::attention;
  return vk::Guard([&] {
    const vk::Arg out(kOp, "output", output), prefix(kOp, "prefix_output", prefix_output),
        suffix(kOp, "suffix_output", suffix_output), first_lse(kOp, "prefix_lse", prefix_lse),
        second_lse(kOp, "suffix_lse", suffix_lse);
    prefix.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    suffix.SameDtype(prefix).SameShape(prefix).LastDimContiguous();
    out.SameShape(prefix).LastDimContiguous();
    MergeProblem problem{};
    const bool quantised = output_scale != nullptr;
    if (quantised) {
      const vk::Arg scale(kOp, "output_scale", output_scale);
      scale.Dtype({VK_F32});
      VK_CHECK(vk::NumElements(scale.tensor()) == 1,
               "%s: output_scale has shape %s, want one value", kOp,
               vk::ShapeString(scale.tensor()).c_str());
      out.Dtype({VK_F8E4M3});
      problem.output_scale = static_cast<const float*>(scale.tensor().data);
    } else {
      out.SameDtype(prefix);
    }
    problem.prefix_lse = Lse(first_lse, out);
    problem.suffix_lse = Lse(second_lse, out);
    problem.prefix_lse_stride = first_lse.stride(0);
    problem.suffix_lse_stride = second_lse.stride(0);
    if (output_lse != nullptr) {
      const vk::Arg lse(kOp, "output_lse", output_lse);
      problem.output_lse = const_cast<float*>(Lse(lse, out));
      problem.output_lse_stride = lse.stride(0);
    }
    VK_CHECK(prefill_tokens_with_context >= -1 && prefill_tokens_with_context <= out.size(0),
             "%s: prefill_tokens_with_context is %lld, want 0 to the %lld tokens of output", kOp,
             static_cast<long long>(prefill_tokens_with_context),
             static_cast<long long>(out.size(0)));
    problem.merged = prefill_tokens_with_context < 0 ? out.size(0) : prefill_tokens_with_context;
    const int64_t rows = out.size(0) * out.size(1);
    if (rows == 0) return;
    problem.prefix = prefix_output->data;
    problem.suffix = suffix_output->data;
    problem.output = output->data;
    problem.heads = static_cast<int32_t>(out.size(1));
    for (int dim = 0; dim < 2; ++dim) {
      problem.prefix_strides[dim] = prefix.stride(dim);
      problem.suffix_strides[dim] = suffix.stride(dim);
      problem.output_strides[dim] = out.stride(dim);
    }
    const int64_t pack = 16 / vk::DtypeSize(prefix_output->dtype);
    const bool vector = Vectors(prefix, pack) && Vectors(suffix, pack) && Vectors(out, pack);
    const auto queue = vk::cuda::AsStream(stream);
    if (prefix_output->dtype == VK_F32) {
      Launch<float>(problem, quantised, vector, rows, out.size(2), queue);
    } else if (prefix_output->dtype == VK_BF16) {
      Launch<vk::cuda::BFloat16>(problem, quantised, vector, rows, out.size(2), queue);
    } else {
      Launch<vk::cuda::Half>(problem, quantised, vector, rows, out.size(2), queue);
    }
    vk::cuda::CheckLaunch(kOp);
  });
}
