// silu(gate) * up of the rows that experts use, quantised: persistent blocks, which find the rows
// in counts that the host never sees.
#include "cuda/activation/kernel.cuh"
#include "cuda/common/scan.cuh"

namespace vk::cuda::activation {
namespace {

constexpr int kVectors = 2;  // neighbouring ones of a thread
constexpr float kLeast = 1e-10f;

template <class T, MaskedScale kScale>
__global__ void __launch_bounds__(kThreads)
    MaskedKernel(const __grid_constant__ MaskedProblem problem) {
  constexpr int N = kVecSize<T>, kColumns = kVectors * N, kLanes = kMaskedGroup / kColumns;
  constexpr int kGroups = 32 / kLanes;  // of a warp
  __shared__ int ends[kMaskedExperts], scratch[kThreads / 32];
  PdlPrologue();
  int rows = 0;
  for (int base = 0; base < problem.experts; base += kThreads) {
    const int expert = base + static_cast<int>(threadIdx.x);
    const int count =
        expert < problem.experts ? min(max(problem.counts[expert], 0), problem.rows) : 0;
    int total;
    const int before = ExclusiveSum(count, scratch, &total);
    if (expert < problem.experts) ends[expert] = rows + before + count;
    rows += total;
  }
  __syncthreads();

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t work = static_cast<uint32_t>(rows) * problem.groups.divisor();
  const uint32_t warp = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const uint32_t step = gridDim.x * (kThreads / 32) * kGroups;
  for (uint32_t first = warp * kGroups; first < work; first += step) {
    const bool active = first + lane / kLanes < work;
    // Lanes past the end repeat the last group: all of a warp take part in the reduction.
    const FastDiv::Result at = problem.groups(active ? first + lane / kLanes : work - 1);
    int expert = 0;  // the first that ends behind the row
    for (int rest = problem.experts; rest > 0;) {
      const int half = rest / 2;
      const bool behind = ends[expert + half] <= static_cast<int>(at.quotient);
      expert = behind ? expert + half + 1 : expert;
      rest = behind ? rest - half - 1 : half;
    }
    const int64_t row = static_cast<int>(at.quotient) - (expert > 0 ? ends[expert - 1] : 0);
    const int64_t group = at.remainder, column = group * kMaskedGroup + lane % kLanes * kColumns;
    const T* from = static_cast<const T*>(problem.input) + expert * problem.input_expert +
                    row * problem.input_row + column;
    Vec<T, N> gates[kVectors], ups[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      gates[i] = LoadVec<N>(from + i * N);
      ups[i] = LoadVec<N>(from + problem.width + i * N);
    }
    float y[kColumns];
    const float abs_max = SiluAndMul(gates, ups, y, kLeast);
    float scale = OverQuantMax<E4M3>(ReduceLanes<kLanes>(abs_max, Max()));
    if constexpr (kScale != MaskedScale::kFloat) {
      scale = __uint_as_float(CeilExponent(scale) << 23);
    }
    if (!active) continue;
    if (lane % kLanes == 0) {
      const int64_t to = expert * problem.scale_expert + row * problem.scale_row;
      if constexpr (kScale == MaskedScale::kPacked) {
        // Four exponents in an int32; the last one's that no group has are 0.
        uint8_t* bytes = reinterpret_cast<uint8_t*>(static_cast<int32_t*>(problem.scales) + to +
                                                    group / 4 * problem.scale_group);
        bytes[group % 4] = static_cast<uint8_t>(CeilExponent(scale));
        if (group + 1 == problem.groups.divisor()) {
          for (int64_t rest = group % 4 + 1; rest < 4; ++rest) bytes[rest] = 0;
        }
      } else {
        static_cast<float*>(problem.scales)[to + group * problem.scale_group] = scale;
      }
    }
    const Divisor divisor(scale);
    divisor.Divide(y, 2.0f * kQuantMax<E4M3>, true);
    StoreVec(static_cast<E4M3*>(problem.out) + expert * problem.out_expert + row * problem.out_row +
                 column,
             FromFloats<E4M3>(y));
  }
}

}  // namespace

void LaunchMasked(const MaskedProblem& problem, MaskedScale scale, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = [&](auto kernel) {
      constexpr int64_t kGroups = kThreads * kVectors * kVecSize<T> / kMaskedGroup;
      const int64_t groups = int64_t{problem.experts} * problem.rows * problem.groups.divisor();
      const int64_t most = int64_t{8} * CurrentDevice(launch.op).multiprocessors;
      const int64_t blocks = CeilDiv(groups, kGroups);
      LaunchPdl(launch.op, kernel, GridX(launch.op, blocks < most ? blocks : most), kThreads, 0,
                launch.stream, problem);
    };
    if (scale == MaskedScale::kFloat) return run(MaskedKernel<T, MaskedScale::kFloat>);
    if (scale == MaskedScale::kPower) return run(MaskedKernel<T, MaskedScale::kPower>);
    run(MaskedKernel<T, MaskedScale::kPacked>);
  });
}

}  // namespace vk::cuda::activation
