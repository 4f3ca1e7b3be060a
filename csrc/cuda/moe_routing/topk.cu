#include "cuda/common/dtype.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/table.cuh"
#include "cuda/ptx/griddepcontrol.cuh"

namespace vk::cuda::moe_routing {
namespace {

constexpr uint32_t kNone = 0;  // key of what cannot be chosen

// Unsigned numbers in the order of the floats; a NaN comes before all others, but can be chosen.
__device__ __forceinline__ uint32_t ToKey(float x) {
  if (isnan(x)) return kNone + 1;
  const uint32_t bits = __float_as_uint(x + 0.0f);  // one zero
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Best {
  uint32_t key;
  int index;
};

template <int kLanes>
__device__ __forceinline__ Best ReduceByShuffles(Best best) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const uint32_t key = __shfl_xor_sync(0xFFFFFFFFu, best.key, distance);
    const int index = __shfl_xor_sync(0xFFFFFFFFu, best.index, distance);
    if (key > best.key || (key == best.key && index < best.index)) best = {key, index};
  }
  return best;
}

// The largest key among kLanes lanes and, of equal ones, the smallest index.
template <int kLanes>
__device__ __forceinline__ Best ReduceBest(Best best) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (kLanes == 32) {
    const uint32_t key = __reduce_max_sync(0xFFFFFFFFu, best.key);
    const unsigned mine = best.key == key ? static_cast<unsigned>(best.index) : 0xFFFFFFFFu;
    return {key, static_cast<int>(__reduce_min_sync(0xFFFFFFFFu, mine))};
  } else {
    return ReduceByShuffles<kLanes>(best);
  }
#else
  return ReduceByShuffles<kLanes>(best);
#endif
}

__device__ __forceinline__ float Sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// The dtype is a run-time number: what differs is a conversion, and kernels by dtype would be many.
template <int kLanes, int kValues>
__device__ __forceinline__ void LoadRow(const void* data, int32_t dtype, int64_t offset, int lane,
                                        int experts, float (&x)[kValues]) {
  const auto load = [&](const auto* row) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int expert = lane + i * kLanes;
      x[i] = expert < experts ? ToFloat(row[expert]) : -INFINITY;
    }
  };
  if (dtype == VK_F32) {
    load(static_cast<const float*>(data) + offset);
  } else if (dtype == VK_BF16) {
    load(static_cast<const BFloat16*>(data) + offset);
  } else {
    load(static_cast<const Half*>(data) + offset);
  }
}

// Which groups may be chosen from, as bits. `choices`: the warp's experts in shared memory.
__device__ __forceinline__ uint32_t ChooseGroups(const TopK& problem, const float* choices) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int size = problem.experts / problem.groups;
  float first = -INFINITY, second = -INFINITY;
  if (lane < problem.groups) {
    // Lanes start at different columns: groups are often 32 long, one bank's distance.
    int column = lane % size;
    for (int i = 0; i < size; ++i) {
      const float x = choices[lane * size + column];
      if (++column == size) column = 0;
      second = fmaxf(second, fminf(first, x));
      first = fmaxf(first, x);
    }
  }
  const float sum = size > 1 ? first + second : first;
  Best mine = {lane < problem.groups ? ToKey(sum) : kNone, lane};
  uint32_t chosen = 0;
  for (int i = 0; i < problem.group_topk; ++i) {
    const Best best = ReduceBest<32>(mine);
    chosen |= 1u << best.index;
    if (best.index == lane) mine.key = kNone;
  }
  return chosen;
}

// kLanes lanes a token; expert e is value e / kLanes of lane e % kLanes.
template <int kLanes, int kValues, bool kGroups>
__global__ void __launch_bounds__(kThreads)
    TopKKernel(const __grid_constant__ TopK problem, const __grid_constant__ TopKTypes types) {
  ptx::griddepcontrol_wait();
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) +
                      static_cast<int>(threadIdx.x) / kLanes;
  // Lanes past the end work on the last token, since all take part in the shuffles.
  const bool active = own < problem.tokens;
  const int64_t token = active ? own : problem.tokens - 1;

  float score[kValues];
  LoadRow<kLanes>(problem.scores, types.scores, token * problem.score_stride, lane, problem.experts,
                  score);
  if (types.scoring == Scoring::kSoftmax) {
    float most = score[0], sum = 0.0f;
#pragma unroll
    for (int i = 1; i < kValues; ++i) most = fmaxf(most, score[i]);
    most = ReduceLanes<kLanes>(most, Max());
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      score[i] = lane + i * kLanes < problem.experts ? expf(score[i] - most) : 0.0f;
      sum += score[i];
    }
    const float scale = 1.0f / ReduceLanes<kLanes>(sum, Sum());
#pragma unroll
    for (int i = 0; i < kValues; ++i) score[i] *= scale;
  } else if (types.scoring == Scoring::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) score[i] = Sigmoid(score[i]);
  } else if (types.scoring == Scoring::kSoftplusSqrt) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) score[i] = SoftplusSqrt(score[i]);
  }
  float choice[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) choice[i] = 0.0f;
  if (problem.bias != nullptr) {
    LoadRow<kLanes>(problem.bias, types.bias, 0, lane, problem.experts, choice);
  }

  uint32_t keys[kValues];
  [[maybe_unused]] float* choices = shared + threadIdx.x / 32 * problem.experts;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int expert = lane + i * kLanes;
    keys[i] = kNone;
    if (expert >= problem.experts) continue;
    score[i] = FiniteOr0(score[i]);
    choice[i] += score[i];
    keys[i] = ToKey(choice[i]);
    if constexpr (kGroups) choices[expert] = choice[i];
  }
  if constexpr (kGroups) {
    __syncwarp();
    const uint32_t chosen = ChooseGroups(problem, choices);
    const int size = problem.experts / problem.groups;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int expert = lane + i * kLanes;
      if (expert < problem.experts && (chosen >> (expert / size) & 1) == 0) keys[i] = kNone;
    }
  }

  // Not sooner: blocks that wait beside those that work slow these down.
  ptx::griddepcontrol_launch_dependents();
  const int64_t first = token * problem.topk;
  const auto write = [&](int k, int expert, float weight) {
    problem.weights[first + k] = weight;
    if (types.indices == VK_I64) {
      static_cast<int64_t*>(problem.indices)[first + k] = expert;
    } else {
      static_cast<int32_t*>(problem.indices)[first + k] = expert;
    }
    if (problem.source_rows != nullptr) {
      problem.source_rows[first + k] = static_cast<int32_t>(k * problem.tokens + token);
    }
  };
  const auto scale_of = [&](float sum) {
    return problem.renormalize ? problem.factor / (sum > 0.0f ? sum : 1.0f) : problem.factor;
  };

  if constexpr (kValues == 1) {
    // Each expert finds its own place: of all keys at once, instead of one best after the other.
    int place = 0;
#pragma unroll
    for (int distance = 1; distance < kLanes; ++distance) {
      const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, keys[0], distance);
      if (other > keys[0] || (other == keys[0] && (lane ^ distance) < lane)) ++place;
    }
    const bool chosen = place < problem.topk;
    const float sum = ReduceLanes<kLanes>(chosen ? score[0] : 0.0f, Sum());
    if (active && chosen) write(place, lane, score[0] * scale_of(sum));
    return;
  }

  // A lane's first weight stays in a register until its scale is known.
  float kept = 0.0f, sum = 0.0f;
  int kept_expert = 0;
  for (int k = 0; k < problem.topk; ++k) {
    Best best = {keys[0], lane};
#pragma unroll
    for (int i = 1; i < kValues; ++i) {
      if (keys[i] > best.key) best = {keys[i], lane + i * kLanes};
    }
    best = ReduceBest<kLanes>(best);
    float weight = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (best.index == lane + i * kLanes) {
        weight = score[i];
        keys[i] = kNone;
      }
    }
    weight = __shfl_sync(0xFFFFFFFFu, weight, best.index % kLanes, kLanes);
    sum += weight;
    if (k % kLanes != lane) continue;
    if (k < kLanes) {
      kept = weight;
      kept_expert = best.index;
    } else if (active) {
      write(k, best.index, weight);
    }
  }
  if (!active) return;
  const float scale = scale_of(sum);
  if (lane < problem.topk) write(lane, kept_expert, kept * scale);
  if (scale == 1.0f) return;
  // Each lane scales what it wrote itself.
  for (int k = lane + kLanes; k < problem.topk; k += kLanes) problem.weights[first + k] *= scale;
}

template <int kLanes, int kValues, bool kGroups>
void LaunchValues(const TopK& problem, const TopKTypes& types) {
  const int64_t rows = kThreads / kLanes;
  const size_t shared = kGroups ? sizeof(float) * problem.experts * (kThreads / 32) : 0;
  LaunchPdl(types.op, TopKKernel<kLanes, kValues, kGroups>,
            GridX(types.op, CeilDiv(problem.tokens, rows)), kThreads, shared, types.stream, problem,
            types);
}

template <bool kGroups>
void LaunchExperts(const TopK& problem, const TopKTypes& types) {
  const int32_t experts = problem.experts;
  if constexpr (!kGroups) {
    if (experts <= 8) return LaunchValues<8, 1, false>(problem, types);
  }
  if (experts <= 64) return LaunchValues<32, 2, kGroups>(problem, types);
  if (experts <= 128) return LaunchValues<32, 4, kGroups>(problem, types);
  if (experts <= 256) return LaunchValues<32, 8, kGroups>(problem, types);
  if (experts <= 512) return LaunchValues<32, 16, kGroups>(problem, types);
  LaunchValues<32, 32, kGroups>(problem, types);
}

}  // namespace

void LaunchTopK(const TopK& problem, const TopKTypes& types) {
  if (problem.tokens == 0 || problem.topk == 0) return;
  if (problem.groups > 1) {
    LaunchExperts<true>(problem, types);
  } else {
    LaunchExperts<false>(problem, types);
  }
  CheckLaunch(types.op);
}

void LaunchTable(const TopK& problem, const TopKTypes& types) {
  if (problem.tokens == 0 || problem.topk == 0) return;
  const unsigned grid = GridX(types.op, CeilDiv(problem.tokens, kThreads / 32));
  const bool wide = types.indices == VK_I64;
  DispatchFloating(types.scores, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchBool(types.token_ids == VK_I64, [&](auto wide_ids) {
      using Id = std::conditional_t<decltype(wide_ids)::value, int64_t, int32_t>;
      DispatchBool(types.table == VK_I64, [&](auto wide_table) {
        using Expert = std::conditional_t<decltype(wide_table)::value, int64_t, int32_t>;
        TableKernel<T, Id, Expert><<<grid, kThreads, 0, types.stream>>>(problem, wide);
      });
    });
  });
  CheckLaunch(types.op);
}

}  // namespace vk::cuda::moe_routing
