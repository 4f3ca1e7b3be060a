// Many query rows (prefill), for `*_tier.cc` files: keys and values of a step are packed once and
// multiplied with all rows of the tile. Rows are the lanes of the logits, so that the softmax needs
// no reduction across lanes, and neither keys nor probabilities are transposed.
#ifndef VLLM_KERNELS_CPU_ATTENTION_PREFILL_H_
#define VLLM_KERNELS_CPU_ATTENTION_PREFILL_H_

#include "cpu/attention/keys.h"
#include "cpu/attention/softmax.h"
#include "cpu/round.h"

namespace vk::VK_TIER {

// How T becomes the elements of a Mac.
template <class T>
struct FloatPacking {
  using Mac = FloatMac;
  using Probabilities = FloatProbabilities;

  // A column of the transposed query: to[i * ld], i < padded_head.
  static void PackQuery(const T* from, int32_t head_size, float* to, size_t ld) {
    float buffer[kLanes];
    for (int32_t i = 0; i < head_size; i += kLanes) {
      const size_t count = HWY_MIN(kLanes, head_size - i);
      StoreF32(LoadUpTo(from + i, count), buffer);
      for (size_t j = 0; j < count; ++j) to[(i + j) * ld] = buffer[j];
    }
  }

  static void PackRow(const T* from, int32_t head_size, float* to) {
    for (int32_t i = 0; i < head_size; i += kLanes) {
      StoreF32(LoadUpTo(from + i, HWY_MIN(kLanes, head_size - i)), to + i);
    }
  }
  static void PackKey(const T* from, int32_t head_size, float* to) { PackRow(from, head_size, to); }
  static void PackValues(const void* const* from, int32_t, int32_t head_size, float* to) {
    PackRow(static_cast<const T*>(*from), head_size, to);
  }
  static constexpr int32_t kColumnMultiple = kLanes;
  static void RestoreColumns(const Tile&) {}  // PackValues keeps their order
};

template <class T, class Packing>
class Prefill {
  using Mac = typename Packing::Mac;
  using Element = typename Mac::Element;

 public:
  struct Scope {};  // no machine state to set up
  static constexpr int32_t kKeys = 64;

  Prefill(Arena& arena, const Tile& tile)
      : tile_(tile),
        steps_(CeilDiv(tile.head_size, Mac::kSteps)),
        rows_(arena, kKeys),
        decoded_(arena, kKeys, tile.padded_head),
        query_(arena.Take<Element>(static_cast<size_t>(steps_) * tile.padded_rows)),
        keys_(arena.Take<Element>(static_cast<size_t>(kKeys) * tile.padded_head)),
        values_(arena.Take<Element>(static_cast<size_t>(kKeys) * tile.padded_head)),
        logits_(arena.Take<float>(static_cast<size_t>(kKeys) * tile.padded_rows)),
        probabilities_(PlaceProbabilities(arena)) {}

  void Start(const AttentionProblem& problem, const AttentionTask& task) {
    hwy::ZeroBytes(query_, sizeof(Element) * steps_ * tile_.padded_rows);
    for (int32_t row = 0; row < tile_.rows; ++row) {
      Packing::PackQuery(QueryRow(static_cast<const T*>(problem.query), problem.query_token_stride,
                                  problem.query_head_stride, problem, task, row),
                         tile_.head_size, query_ + row, tile_.padded_rows);
    }
    hwy::ZeroBytes(tile_.out, sizeof(float) * tile_.padded_rows * tile_.padded_head);
    // The padding of the head is multiplied too, into outputs that are never read.
    hwy::ZeroBytes(values_, sizeof(Element) * kKeys * tile_.padded_head);
  }

  void Step(const AttentionProblem& problem, const AttentionTask& task, const LogitRule& rule,
            int32_t first, int32_t count) {
    rows_.Find(problem, task, first, count, CachedBytes<T>(problem));
    decoded_.Replace(problem, count, rows_);
    for (int32_t i = 0; i < count; ++i) {
      Packing::PackKey(static_cast<const T*>(rows_.keys[i]), tile_.head_size,
                       keys_ + i * tile_.padded_head);
    }
    const size_t ld = tile_.padded_rows;
    PackedProduct<Mac>(count, tile_.padded_rows, steps_, {keys_, size_t(tile_.padded_head), 1},
                       query_, ld, logits_, ld, nullptr);
    SoftmaxColumns(rule, tile_, logits_, ld, first, count,
                   typename Packing::Probabilities{probabilities_, ld});
    const int32_t key_steps = CeilDiv(count, Mac::kSteps);
    for (int32_t i = 0; i < key_steps; ++i) {
      Packing::PackValues(rows_.values + i * Mac::kSteps, count - i * Mac::kSteps, tile_.head_size,
                          values_ + i * tile_.padded_head);
    }
    PackedProduct<Mac>(tile_.rows, RoundUp(tile_.head_size, Packing::kColumnMultiple), key_steps,
                       {probabilities_, 1, ld}, values_, tile_.padded_head, tile_.out,
                       tile_.padded_head, tile_.correction);
  }

  void Finish() { Packing::RestoreColumns(tile_); }

 private:
  // Float probabilities replace the logits.
  Element* PlaceProbabilities(Arena& arena) const {
    if constexpr (Mac::kSteps == 1) return logits_;
    return arena.Take<Element>(static_cast<size_t>(kKeys) * tile_.padded_rows / 2);
  }

  const Tile& tile_;
  const int32_t steps_;
  KeyRows rows_;
  Decoded<T> decoded_;
  Element* query_;          // [steps_][padded_rows]
  Element* keys_;           // [kKeys][padded_head]
  Element* values_;         // [kKeys / Mac::kSteps][padded_head]
  float* logits_;           // [kKeys][padded_rows]
  Element* probabilities_;  // [kKeys / Mac::kSteps][padded_rows]
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_PREFILL_H_
