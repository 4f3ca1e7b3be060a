#include "cuda/common/dtype.cuh"
#include "cuda/common/pdl.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/selective_scan/launch.h"

namespace vk::cuda::selective_scan {
namespace {

constexpr int kThreads = 128;

// kLanes lanes a row, each with kPer numbers of its state in registers; kTile tokens at a time.
template <int kLanes, int kPer, int kTile>
struct Shape {
  static constexpr int kStates = kLanes * kPer;
  static constexpr int kRows = kThreads / kLanes;
  // Neighbouring tokens of B and C, which neighbouring threads write, lie in different banks.
  static constexpr int kPitch = kStates + 4;
  static constexpr int kLanesOfRow = kLanes, kOfLane = kPer, kTokens = kTile;

  struct Shared {
    float steps[kRows][kTile + 1];
    float values[kRows][kTile + 1];  // u, and afterwards y
    alignas(16) float b[kTile][kPitch];
    alignas(16) float c[kTile][kPitch];
  };
};

__device__ __forceinline__ float Softplus(float x) { return x <= 20.0f ? log1pf(expf(x)) : x; }

// The tokens of a sequence, and the chunks behind which its state is kept.
struct Sequence {
  int64_t slot;  // of its first state; negative: nothing is to be done
  int32_t start, tokens;
  int32_t first_chunk, chunks;  // of the list of chunks; first_chunk negative: blocks
  int32_t position;             // where the first chunk begins, counted in blocks of the cache
  bool initial;
};

__device__ __forceinline__ int64_t SlotAt(const Problem& p, int32_t sequence, int64_t column) {
  if (column < 0 || column >= p.columns) return -1;
  const int64_t slot = p.indices[sequence * p.indices_stride + column * p.column_stride];
  return slot < p.slots ? slot : -1;
}

__device__ Sequence Find(const Problem& p, int32_t s) {
  Sequence one{};
  one.slot = -1;
  one.tokens = p.tokens;
  if (p.starts != nullptr) {
    one.start = min(max(p.starts[s], 0), p.tokens);
    one.tokens = min(max(p.starts[s + 1], 0), p.tokens) - one.start;
  }
  if (one.tokens <= 0) return one;
  const bool cached = p.first_block != nullptr;
  if (p.indices == nullptr) {
    one.slot = s < p.slots ? s : -1;
  } else {
    one.slot = SlotAt(p, s, cached ? p.initial[s] : 0);
    if (one.slot == p.null_slot) one.slot = -1;
  }
  one.initial = p.has_initial != nullptr && p.has_initial[s] != 0;
  one.first_chunk = -1;
  one.chunks = 1;
  if (!cached) return one;
  if (p.chunk_ends == nullptr) {
    one.chunks = (one.tokens + p.block_size - 1) / p.block_size;
    return one;
  }
  // Compared before they are counted with: a sum of such numbers might overflow.
  const int32_t before = s == 0 ? -1 : p.last_chunk[s - 1], last = p.last_chunk[s];
  if (before < -1 || last <= before || last >= p.chunks) {
    one.slot = -1;
    return one;
  }
  one.first_chunk = before + 1;
  one.chunks = last - before;
  // The first chunk may fill the rest of a block that was begun.
  const int32_t first = p.chunk_ends[one.first_chunk + 1] - p.chunk_ends[one.first_chunk];
  const bool partial = one.chunks > 1 && first < p.block_size;
  one.position = p.first_block[s] * p.block_size + (partial ? p.block_size - first : 0);
  return one;
}

// `tokens` tokens from `at` on of the block's rows: steps and inputs, and B and C of their group.
template <class S, class T>
__device__ __forceinline__ void LoadTile(const Problem& p, typename S::Shared& shared, int32_t s,
                                         int group, int first_row, int rows, int64_t at,
                                         int tokens) {
  constexpr int kTile = S::kTokens;
  const auto* u = static_cast<const T*>(p.u.data) + s * p.u.sequence + at;
  const auto* delta = static_cast<const T*>(p.delta.data) + s * p.delta.sequence + at;
  for (int i = threadIdx.x; i < S::kRows * kTile; i += kThreads) {
    const int row = i / kTile, t = i % kTile;
    if (row >= rows || t >= tokens) continue;
    float step = ToFloat(delta[(first_row + row) * p.delta.row + t]);
    if (p.bias != nullptr) step += p.bias[first_row + row];
    shared.steps[row][t] = p.softplus ? Softplus(step) : step;
    shared.values[row][t] = ToFloat(u[(first_row + row) * p.u.row + t]);
  }
  const auto* b = static_cast<const T*>(p.b.data) + s * p.b.sequence + group * p.b.group + at;
  const auto* c = static_cast<const T*>(p.c.data) + s * p.c.sequence + group * p.c.group + at;
  for (int i = threadIdx.x; i < S::kStates * kTile; i += kThreads) {
    const int state = i / kTile, t = i % kTile;
    const bool there = state < p.dstate && t < tokens;
    shared.b[t][state] = there ? ToFloat(b[state * p.b.state + t]) : 0.0f;
    shared.c[t][state] = there ? ToFloat(c[state * p.c.state + t]) : 0.0f;
  }
}

template <class S, class T>
__device__ __forceinline__ void StoreTile(const Problem& p, const typename S::Shared& shared,
                                          int32_t s, int first_row, int rows, int64_t at,
                                          int tokens) {
  auto* out = static_cast<T*>(p.delta.data) + s * p.delta.sequence + at;
  auto* z = static_cast<T*>(p.z.data) + s * p.z.sequence + at;
  for (int i = threadIdx.x; i < S::kRows * S::kTokens; i += kThreads) {
    const int row = i / S::kTokens, t = i % S::kTokens;
    if (row >= rows || t >= tokens) continue;
    const float y = shared.values[row][t];
    out[(first_row + row) * p.delta.row + t] = FromFloat<T>(y);
    if (p.z.data == nullptr) continue;
    T* gate = z + (first_row + row) * p.z.row + t;
    const float g = ToFloat(*gate);
    *gate = FromFloat<T>(y * g / (1.0f + expf(-g)));
  }
}

// The tile's tokens. kWhole: every lane has kPer numbers of a state; else `count`, since behind the
// state's end an infinite input would be a NaN.
template <class S, bool kWhole>
__device__ __forceinline__ void Recur(typename S::Shared& shared, int tokens, int count,
                                      float (&state)[S::kOfLane], const float (&decay)[S::kOfLane],
                                      float through) {
  const int own = static_cast<int>(threadIdx.x) / S::kLanesOfRow;
  const int first_state = static_cast<int>(threadIdx.x) % S::kLanesOfRow * S::kOfLane;
  for (int t = 0; t < tokens; ++t) {
    const float step = shared.steps[own][t], u = shared.values[own][t];
    const float input = step * u;
    float y = 0.0f;
#pragma unroll
    for (int k = 0; k < S::kOfLane; k += 4) {
      const float4 b = *reinterpret_cast<const float4*>(&shared.b[t][first_state + k]);
      const float4 c = *reinterpret_cast<const float4*>(&shared.c[t][first_state + k]);
      const float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!kWhole && k + j >= count) continue;
        state[k + j] = fmaf(exp2f(step * decay[k + j]), state[k + j], input * bs[j]);
        y = fmaf(state[k + j], cs[j], y);
      }
    }
    y = ReduceLanes<S::kLanesOfRow>(y, Sum());
    if (first_state == 0) shared.values[own][t] = fmaf(through, u, y);
  }
}

template <class S, class T, class State>
__global__ void __launch_bounds__(kThreads)
    ScanKernel(const __grid_constant__ Problem p, const int row_blocks) {
  constexpr int kPer = S::kOfLane;
  __shared__ typename S::Shared shared;
  PdlPrologue();
  const int s = static_cast<int>(blockIdx.x) / (row_blocks * p.groups);
  const int block = static_cast<int>(blockIdx.x) % (row_blocks * p.groups);
  const int group = block / row_blocks, of_group = p.rows / p.groups;
  const int first_in_group = block % row_blocks * S::kRows;
  const int first_row = group * of_group + first_in_group;
  const int rows = min(S::kRows, of_group - first_in_group);
  const Sequence sequence = Find(p, s);
  if (sequence.slot < 0) return;

  const int own = static_cast<int>(threadIdx.x) / S::kLanesOfRow;
  const int first_state = static_cast<int>(threadIdx.x) % S::kLanesOfRow * kPer;
  const bool active = own < rows;
  const int row = first_row + (active ? own : 0);
  const int count = active ? min(max(p.dstate - first_state, 0), kPer) : 0;
  State* states = static_cast<State*>(p.states) + row * p.state_row + first_state;
  float state[kPer], decay[kPer];
#pragma unroll
  for (int k = 0; k < kPer; ++k) {
    const bool there = k < count;
    constexpr float kLog2E = 1.4426950408889634f;
    decay[k] = there ? p.a[row * p.a_row + (first_state + k) * p.a_state] * kLog2E : 0.0f;
    state[k] = there && sequence.initial ? ToFloat(states[sequence.slot * p.slot + k]) : 0.0f;
  }
  const float through = active && p.d != nullptr ? p.d[row] : 0.0f;

  const bool cached = p.first_block != nullptr;
  int32_t done = 0, position = sequence.position;
  for (int32_t chunk = 0; chunk < sequence.chunks && done < sequence.tokens; ++chunk) {
    const int32_t* ends = p.chunk_ends + sequence.first_chunk + chunk;
    const int32_t wanted = !cached                    ? sequence.tokens
                           : sequence.first_chunk < 0 ? p.block_size
                                                      : ends[1] - ends[0];
    const int32_t tokens = min(wanted, sequence.tokens - done);
    if (tokens <= 0) break;
    for (int32_t t0 = 0; t0 < tokens; t0 += S::kTokens) {
      const int some = min(S::kTokens, tokens - t0);
      const int64_t at = sequence.start + int64_t{done} + t0;
      __syncthreads();  // what the tile before it has left is read
      LoadTile<S, T>(p, shared, s, group, first_row, rows, at, some);
      __syncthreads();
      if (p.dstate == S::kStates) {
        Recur<S, true>(shared, some, kPer, state, decay, through);
      } else {
        Recur<S, false>(shared, some, count, state, decay, through);
      }
      __syncthreads();
      StoreTile<S, T>(p, shared, s, first_row, rows, at, some);
    }
    done += tokens;
    position += tokens;
    const bool last = chunk + 1 == sequence.chunks || done == sequence.tokens;
    int64_t slot = -1;
    if (!cached) {
      slot = sequence.slot;
    } else if (p.indices != nullptr) {
      slot = SlotAt(p, s, last ? p.last_block[s] : (position - 1) / p.block_size);
    }
    if (slot < 0) continue;
#pragma unroll
    for (int k = 0; k < kPer; ++k) {
      if (k < count) states[slot * p.slot + k] = FromFloat<State>(state[k]);
    }
  }
}

template <class S, class T, class State>
void RunScan(const Problem& p, const Launch& launch) {
  const int64_t row_blocks = CeilDiv(p.rows / p.groups, S::kRows);
  LaunchPdl(launch.op, ScanKernel<S, T, State>,
            dim3(GridX(launch.op, row_blocks * p.groups * p.sequences)), kThreads, 0, launch.stream,
            p, static_cast<int>(row_blocks));
}

}  // namespace

void LaunchScan(const Problem& p, const Launch& launch) {
  if (p.sequences == 0 || p.rows == 0 || p.tokens == 0) return;
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchBool(launch.float_states || std::is_same_v<T, float>, [&](auto wide) {
      using State = std::conditional_t<decltype(wide)::value, float, T>;
      if (p.dstate <= 16) return RunScan<Shape<4, 4, 64>, T, State>(p, launch);
      if (p.dstate <= 64) return RunScan<Shape<8, 8, 32>, T, State>(p, launch);
      RunScan<Shape<16, 16, 16>, T, State>(p, launch);
    });
  });
}

}  // namespace vk::cuda::selective_scan
