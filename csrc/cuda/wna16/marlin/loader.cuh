// The producer of Marlin's kernel: cp.async copies of weights, activations, scales and zero points.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_LOADER_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_LOADER_CUH_

#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/wna16/marlin/schedule.cuh"

namespace vk::cuda::wna16 {

template <WeightType kType, class S, bool kExperts>
class MarlinLoader {
 public:
  using Stage = MarlinStage<S, kType>;
  using Schedule = MarlinSchedule<S, kExperts>;

  __device__ __forceinline__ MarlinLoader(const MarlinParams& params, const Schedule& schedule,
                                          Stage* stages)
      : p_(params), schedule_(schedule), stages_(stages) {}

  // Asks for the first weights to be brought to L2, while the kernel before this one may still run:
  // weights do not depend on it, and what lies in L2 is never out of date.
  __device__ __forceinline__ void PrefetchWeights() const {
    const int begin = schedule_.begin, end = schedule_.end;
    const int thread = static_cast<int>(threadIdx.x);
    const int column = begin / p_.k_steps / schedule_.m_tiles * (S::kN / kPackedTileN) + thread;
    if (begin >= end || thread >= S::kN / kPackedTileN || column >= p_.n / kPackedTileN) return;
    const int chunk = begin % p_.k_steps * S::kWarpsK;
    const int steps = min(p_.prefetch_steps, end - begin);
    const int chunks = min(steps * S::kWarpsK, p_.k / 64 - chunk);
    ptx::bulk_prefetch_l2(static_cast<const unsigned char*>(p_.weights) +
                              (static_cast<int64_t>(column) * (p_.k / 64) + chunk) * kChunkBytes,
                          chunks * kChunkBytes);
  }

  // Points at the block's first step.
  __device__ __forceinline__ void Start() {
    step_ = schedule_.begin;
    tile_ = step_ / p_.k_steps;
    Seek(step_ % p_.k_steps);
  }

  // Starts the copies of the next step into `stage`; after the last step, an empty group.
  __device__ __forceinline__ void LoadNext(int stage) {
    if (step_ < schedule_.end) {
      LoadWeights(stages_[stage]);
      LoadTokens(stages_[stage]);
      LoadScales(stages_[stage]);
      ++step_;
      if (++k_step_ == p_.k_steps) {
        ++tile_;
        Seek(0);
      } else {
        chunks_left_ -= S::kWarpsK;
        weights_ += S::kWarpsK * kChunkBytes;
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) tokens_[i] += S::kK * 2;
      }
    }
    ptx::cp_async_commit_group();
  }

  // Until the oldest stage has arrived; every step commits one group.
  __device__ __forceinline__ void Wait() const {
    switch (p_.stages) {
      case 2:
        return ptx::cp_async_wait_group<0>();
      case 3:
        return ptx::cp_async_wait_group<1>();
      case 4:
        return ptx::cp_async_wait_group<2>();
      case 5:
        return ptx::cp_async_wait_group<3>();
      case 6:
        return ptx::cp_async_wait_group<4>();
      case 7:
        return ptx::cp_async_wait_group<5>();
      default:
        return ptx::cp_async_wait_group<6>();
    }
  }

 private:
  static constexpr int kChunkBytes = sizeof(Stage::weights[0][0]);  // 64 columns x 64 of K

  // How the threads share the copies of a stage. A thread's copies differ by constants, so that one
  // pointer a kind, moved on at each step, serves all of them.
  static constexpr int kChunkVectors = kChunkBytes / 16;
  static constexpr int kRoundChunks =
      S::kThreads / kChunkVectors;  // that one round of copies fills
  static constexpr int kRoundRows = S::kThreads / 8;
  static_assert(S::kThreads % kChunkVectors == 0 && kRoundChunks >= 1, "whole chunks a round");
  static_assert(S::kTokens % kRoundRows == 0 || kRoundRows % S::kTokens == 0,
                "a round of copies is whole rows of tokens, or a part of them");
  // Rows of tokens that a thread copies.
  static constexpr int kThreadRows = S::kTokens > kRoundRows ? S::kTokens / kRoundRows : 1;

  // Points at step `k_step` of tile `tile_`.
  __device__ __forceinline__ void Seek(int k_step) {
    const int thread = static_cast<int>(threadIdx.x);
    const int m_tile = tile_ % schedule_.m_tiles;
    n0_ = tile_ / schedule_.m_tiles * S::kN;
    k_step_ = k_step;
    chunks_left_ = p_.k / 64 - k_step * S::kWarpsK;
    const int block = thread / kChunkVectors;
    const int column = n0_ / kPackedTileN + block / S::kWarpsK;
    const int chunk = k_step * S::kWarpsK + block % S::kWarpsK;
    columns_left_ = p_.n / kPackedTileN - column;
    weights_ = static_cast<const unsigned char*>(p_.weights) +
               (static_cast<int64_t>(column) * (p_.k / 64) + chunk) * kChunkBytes +
               thread % kChunkVectors * 16;
    expert_ = 0;
    if constexpr (kExperts) {
      // A tile at the end may be beyond the last: it is not loaded, but the loader looks.
      if (tile_ < schedule_.m_tiles * p_.n_tiles) expert_ = max(p_.experts.experts[m_tile], 0);
      weights_ += expert_ * p_.experts.weight_bytes;
    }
    const int64_t k = (k_step * S::kWarpsK + thread / 8 / S::kTokens) * 64 + thread % 8 * 8;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int token = (thread / 8 + i * kRoundRows) % S::kTokens;
      int row = m_tile * S::kTokens + token;
      row_valid_[i] = row < p_.m;
      if constexpr (kExperts) {
        row = schedule_.OutputRow(m_tile, token);
        row_valid_[i] = row >= 0;
        row = max(row, 0) / p_.experts.top_k;
      }
      tokens_[i] = static_cast<const unsigned char*>(p_.a) + (row * p_.lda + k) * 2;
    }
  }

  __device__ __forceinline__ void LoadWeights(Stage& stage) const {
    const int thread = static_cast<int>(threadIdx.x);
    auto* const to = reinterpret_cast<unsigned char*>(stage.weights);
    const int64_t column_bytes = static_cast<int64_t>(p_.k / 64) * kChunkBytes;
    const int chunks_left = chunks_left_ - thread / kChunkVectors % S::kWarpsK;
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(stage.weights)) / 16 / S::kThreads; ++i) {
      const int chunk = i * kRoundChunks % S::kWarpsK, column = i * kRoundChunks / S::kWarpsK;
      ptx::cp_async_cg(to + (thread + i * S::kThreads) * 16,
                       weights_ + column * column_bytes + chunk * kChunkBytes,
                       column < columns_left_ && chunk < chunks_left);
    }
  }

  // Rows of 64 of K = 128 bytes; their eight 16-byte parts are permuted by the row's number, so
  // that eight rows of one part lie in different banks.
  __device__ __forceinline__ void LoadTokens(Stage& stage) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / 8;  // of kWarpsK x kTokens
    const int chunks_left = chunks_left_ - row / S::kTokens;
    auto* const to =
        reinterpret_cast<unsigned char*>(stage.tokens) + row * 128 + (thread % 8 ^ (row & 7)) * 16;
    constexpr int kRows = S::kWarpsK * S::kTokens;
#pragma unroll
    for (int i = 0; i < (kRows + kRoundRows - 1) / kRoundRows; ++i) {
      if (kRows < kRoundRows && row >= kRows) break;
      const int turn = i % kThreadRows, chunk = i * kRoundRows / S::kTokens;
      ptx::cp_async_cg(to + i * kRoundRows * 128, tokens_[turn] + chunk * 128,
                       row_valid_[turn] && chunk < chunks_left);
    }
  }

  __device__ __forceinline__ void LoadScales(Stage& stage) const {
    if (!p_.per_channel) {
      constexpr int kBytes = sizeof(ScaleElement<kType>);
      LoadRows<sizeof(stage.scales[0])>(stage.scales,
                                        schedule_.template Scales<ScaleElement<kType>>(expert_),
                                        p_.n * kBytes, n0_ * kBytes);
    }
    if constexpr (HasZeroPoints(kType)) {
      LoadRows<sizeof(stage.zeros[0])>(stage.zeros, schedule_.Zeros(expert_), p_.n / 2, n0_ / 2);
    }
  }

  // One row, or two for groups of 32, or those of FP4, of kBytes for each 64 of K, from rows of
  // `row_bytes` at `offset`.
  template <int kBytes>
  __device__ __forceinline__ void LoadRows(void* to, const void* from, int row_bytes,
                                           int offset) const {
    constexpr int kVectors = kBytes / 16;
    constexpr int kRows = MarlinScaleRows(kType);
    static_assert(S::kWarpsK * kRows * kVectors <= S::kThreads, "one copy a thread");
    const int thread = static_cast<int>(threadIdx.x);
    const int part = thread % kVectors, row = thread / kVectors;
    if constexpr (IsFp4(kType)) {
      if (row >= kRows * S::kWarpsK) return;
      const int64_t group = k_step_ * (kRows * S::kWarpsK) + row;
      ptx::cp_async_cg(
          static_cast<unsigned char*>(to) + (row * kVectors + part) * 16,
          static_cast<const unsigned char*>(from) + group * row_bytes + offset + part * 16,
          row / kRows < chunks_left_ && offset + part * 16 < row_bytes);
      return;
    }
    const bool split = p_.group == 32;
    const int rows = split ? 2 * S::kWarpsK : S::kWarpsK;
    if (row >= rows) return;
    const int at = k_step_ * rows + row;  // in units of 32 or 64 of K
    const int group = static_cast<int>(static_cast<uint64_t>(at) * p_.group_magic >> 32);
    const bool valid = (split ? row / 2 : row) < chunks_left_ && offset + part * 16 < row_bytes;
    ptx::cp_async_cg(
        static_cast<unsigned char*>(to) + ((split ? row : 2 * row) * kVectors + part) * 16,
        static_cast<const unsigned char*>(from) + static_cast<int64_t>(group) * row_bytes + offset +
            part * 16,
        valid);
  }

  const MarlinParams& p_;
  const Schedule& schedule_;
  Stage* const stages_;
  // The next step to load: its place, this thread's sources, and how much lies beyond these.
  int step_, tile_, k_step_, n0_;
  const unsigned char* weights_;
  const unsigned char* tokens_[kThreadRows];
  bool row_valid_[kThreadRows];
  int expert_, chunks_left_, columns_left_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_LOADER_CUH_
