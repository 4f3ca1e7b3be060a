// A task's rows: positions, visible keys, running softmax state and output, for `*_tier.cc` files.
#ifndef VLLM_KERNELS_CPU_ATTENTION_TILE_H_
#define VLLM_KERNELS_CPU_ATTENTION_TILE_H_

#include <cstdint>

#include "cpu/attention/attention.h"
#include "cpu/attention/exp2.h"
#include "cpu/round.h"

namespace vk::VK_TIER {

constexpr int32_t kRowMultiple = 16;   // rows are padded to full vectors and AMX tiles
constexpr int32_t kHeadMultiple = 32;  // and heads to a row of an AMX tile
constexpr float kInfinity = __builtin_huge_valf();

// Hands out pieces of the caller's scratch memory; with a null base it only measures how much is
// needed.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* Take(size_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += RoundUp(count * sizeof(T), 64);
    return base_ == nullptr ? nullptr : piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Row arrays have padded_rows entries. Softmax state is in the base-2 domain.
struct Tile {
  int32_t rows, padded_rows, head_size, padded_head;
  float* max;                  // running maximum of the logits
  float* sum;                  // running sum of exp2(logit - max)
  float* correction;           // what the last step did to `max`, as a factor of earlier results
  float* slope;                // ALiBi
  float* position;             // of the query
  int32_t* lowest;             // first visible key
  int32_t* end;                // one past the last visible key
  float* out;                  // [padded_rows][padded_head], unnormalised
  int32_t all_begin, all_end;  // keys that every row sees

  Tile(Arena& arena, int32_t row_count, int32_t head)
      : rows(row_count),
        padded_rows(RoundUp(row_count, kRowMultiple)),
        head_size(head),
        padded_head(RoundUp(head, kHeadMultiple)) {
    for (float** array : {&max, &sum, &correction, &slope, &position}) {
      *array = arena.Take<float>(padded_rows);
    }
    lowest = arena.Take<int32_t>(padded_rows);
    end = arena.Take<int32_t>(padded_rows);
    out = arena.Take<float>(static_cast<size_t>(padded_rows) * padded_head);
  }

  void Start(const AttentionProblem& problem, const AttentionTask& task);
};

inline void Tile::Start(const AttentionProblem& problem, const AttentionTask& task) {
  all_begin = 0;
  all_end = task.seq_len;
  for (int32_t row = 0; row < padded_rows; ++row) {
    max[row] = -kInfinity;
    sum[row] = slope[row] = position[row] = 0.0f;
    lowest[row] = end[row] = 0;
    if (row >= rows) continue;
    const int32_t at = task.first_position + row / problem.group;
    const int64_t head = int64_t{task.kv_head} * problem.group + row % problem.group;
    position[row] = static_cast<float>(at);
    if (problem.alibi_slopes != nullptr) slope[row] = problem.alibi_slopes[head];
    lowest[row] = HWY_MAX(0, at - problem.window + 1);
    end[row] = task.causal ? at + 1 : task.seq_len;
    if (problem.window < task.seq_len - at) end[row] = HWY_MIN(end[row], at + problem.window);
    all_begin = HWY_MAX(all_begin, lowest[row]);
    all_end = HWY_MIN(all_end, end[row]);
  }
}

// Where the logits of a call differ from scale * query . key.
struct LogitRule {
  float factor;  // of query . key into the base-2 domain, where !general
  float scale, cap, inverse_cap;
  bool general;

  explicit LogitRule(const AttentionProblem& problem)
      : factor(problem.scale * kLog2E),
        scale(problem.scale),
        cap(problem.softcap),
        inverse_cap(problem.softcap > 0.0f ? 1.0f / problem.softcap : 0.0f),
        // The maximum of scaled products is the scaled maximum only for a positive scale.
        general(problem.softcap > 0.0f || problem.alibi_slopes != nullptr ||
                !(problem.scale > 0.0f)) {}

  // The base-2 logit of a key `distance` positions after the query.
  HWY_INLINE VF Apply(VF product, VF slope, VF distance) const {
    const DF d;
    VF x = hn::Mul(product, hn::Set(d, scale));
    if (cap > 0.0f) x = hn::Mul(Tanh(hn::Mul(x, hn::Set(d, inverse_cap))), hn::Set(d, cap));
    return hn::Mul(hn::MulAdd(slope, distance, x), hn::Set(d, kLog2E));
  }
};

template <class T>
HWY_INLINE T* QueryRow(T* base, int64_t token_stride, int64_t head_stride,
                       const AttentionProblem& problem, const AttentionTask& task, int32_t row) {
  const int64_t head = int64_t{task.kv_head} * problem.group + row % problem.group;
  return base + (task.first_token + row / problem.group) * token_stride + head * head_stride;
}

// Adds the sink to each row's softmax, normalises and writes the output.
template <class T>
void WriteOutput(const AttentionProblem& problem, const AttentionTask& task, const Tile& tile) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  for (int32_t row = 0; row < tile.rows; ++row) {
    float factor = 1.0f, sum = tile.sum[row];
    if (problem.sinks != nullptr) {
      const int64_t head = int64_t{task.kv_head} * problem.group + row % problem.group;
      const float sink = problem.sinks[head] * kLog2E;
      const float top = HWY_MAX(tile.max[row], sink);
      if (top > -kInfinity) {
        factor = hn::GetLane(Exp2(hn::Set(d, tile.max[row] - top)));
        sum = sum * factor + hn::GetLane(Exp2(hn::Set(d, sink - top)));
      }
    }
    const VF scale = hn::Set(d, sum == 0.0f ? 0.0f : factor / sum * problem.value_scale);
    const float* from = tile.out + static_cast<size_t>(row) * tile.padded_head;
    T* to = QueryRow(static_cast<T*>(problem.output), problem.output_token_stride,
                     problem.output_head_stride, problem, task, row);
    for (int32_t i = 0; i < problem.value_size; i += lanes) {
      StoreUpTo(hn::Mul(hn::LoadU(d, from + i), scale), to + i,
                HWY_MIN(lanes, static_cast<size_t>(problem.value_size - i)));
    }
  }
}

// The partial result's layout: out [rows][padded_head], max [rows], sum [rows].
HWY_INLINE size_t PartialFloats(int32_t rows, int32_t padded_head) {
  return RoundUp(rows * (padded_head + 2), kRowMultiple);
}

inline void WritePartial(const Tile& tile, float* partial) {
  const size_t out = static_cast<size_t>(tile.rows) * tile.padded_head;
  hwy::CopyBytes(tile.out, partial, out * sizeof(float));
  hwy::CopyBytes(tile.max, partial + out, tile.rows * sizeof(float));
  hwy::CopyBytes(tile.sum, partial + out + tile.rows, tile.rows * sizeof(float));
}

// Merges one partial result into the tile: the online softmax with whole ranges as its steps.
inline void MergePartial(const float* partial, Tile& tile) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const float* maxima = partial + static_cast<size_t>(tile.rows) * tile.padded_head;
  for (int32_t row = 0; row < tile.rows; ++row) {
    if (maxima[row] == -kInfinity) continue;
    const float top = HWY_MAX(tile.max[row], maxima[row]);
    const VF old_factor = Exp2(hn::Set(d, tile.max[row] - top));
    const VF new_factor = Exp2(hn::Set(d, maxima[row] - top));
    tile.max[row] = top;
    tile.sum[row] =
        tile.sum[row] * hn::GetLane(old_factor) + maxima[tile.rows + row] * hn::GetLane(new_factor);
    float* out = tile.out + static_cast<size_t>(row) * tile.padded_head;
    const float* from = partial + static_cast<size_t>(row) * tile.padded_head;
    for (int32_t i = 0; i < tile.padded_head; i += lanes) {
      const VF added = hn::Mul(hn::LoadU(d, from + i), new_factor);
      hn::StoreU(hn::MulAdd(hn::LoadU(d, out + i), old_factor, added), d, out + i);
    }
  }
}

template <class T>
void Merge(const AttentionProblem& problem, const AttentionTask& task,
           const AttentionPartials& partials, void* scratch) {
  Arena arena(scratch);
  Tile tile(arena, task.tokens * problem.group, problem.head_size);
  tile.Start(problem, task);
  hwy::ZeroBytes(tile.out, sizeof(float) * tile.rows * tile.padded_head);
  for (int32_t i = 0; i < partials.count; ++i) {
    MergePartial(partials.first + i * partials.stride, tile);
  }
  WriteOutput<T>(problem, task, tile);
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_TILE_H_
