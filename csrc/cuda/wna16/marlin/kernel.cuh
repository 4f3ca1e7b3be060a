// c = a @ dequantized(weights) + bias for few tokens: as fast as the weights stream from memory.
//
// Blocks take equal shares of all steps (tile of c x 64 * kWarpsK of K), whatever tile these belong
// to ("stream-K": Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense
// Matrix-Matrix Multiplication on the GPU", 2023). A tile that several blocks share is added up by
// the last one to finish, always in the order of K: the result does not depend on who that is.
// Weights, activations, scales and zero points pass through a pipeline of cp.async stages that does
// not drain between tiles. Numbers: weights are exact in the 16-bit type, products are summed in
// float32 per group of K, and each such sum is multiplied by its scale in float32.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_

#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/common/ptx.cuh"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

// kExperts: tiles of tokens by expert (MarlinParams::experts); the blocks then find out on the
// device how much there is to do.
template <class T, WeightType kType, class S, bool kExperts>
class MarlinBlock {
 public:
  __device__ __forceinline__ MarlinBlock(const MarlinParams& params, unsigned char* shared)
      : p_(params),
        stages_(shared),
        rest_(shared + params.stages * Bytes::kStage),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_n_(static_cast<int>(threadIdx.x) / kLanes % S::kWarpsN),
        warp_k_(static_cast<int>(threadIdx.x) / kLanes / S::kWarpsN) {
    packed_tile_ = warp_n_ * S::kMmaTiles / 4;
    first_mma_tile_ = warp_n_ * S::kMmaTiles % 4;
  }

  __device__ __forceinline__ void Run() {
    m_tiles_ = p_.m_tiles;
    block_steps_ = p_.block_steps;
    int steps = p_.steps;
    if constexpr (kExperts) {
      m_tiles_ = *p_.experts.padded / p_.experts.block;
      steps = m_tiles_ * p_.n_tiles * p_.k_steps;
      block_steps_ = (steps + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
    }
    const int begin = static_cast<int>(blockIdx.x) * block_steps_;
    const int end = min(begin + block_steps_, steps);
    if constexpr (!kExperts) {
      LetNextStart();
      if (p_.prefetch_steps > 0) Prefetch(begin, end);
      WaitForPrevious();
    }
    if (begin >= end) return;
    load_step_ = begin;
    load_tile_ = begin / p_.k_steps;
    Seek(begin % p_.k_steps);
    for (int stage = 0; stage < p_.stages - 1; ++stage) LoadNext(stage, end);

    int tile = begin / p_.k_steps;
    int k_step = begin % p_.k_steps;
    int first = k_step;  // of this block in this tile
    int stage = 0;
    Clear();
    for (int step = begin; step < end; ++step) {
      Wait();
      __syncthreads();
      LoadNext(stage == 0 ? p_.stages - 1 : stage - 1, end);
      Multiply(stages_ + stage * Bytes::kStage);
      if (++stage == p_.stages) stage = 0;
      if (++k_step == p_.k_steps || step + 1 == end) {
        Epilogue(tile, first > 0 || k_step < p_.k_steps);
        Clear();
        ++tile;
        k_step = first = 0;
      }
    }
  }

 private:
  using Bytes = MarlinSharedBytes<S, kType>;
  static constexpr bool kHasZeros = kType == WeightType::kU4;
  static constexpr int kPackedTileBytes = PackedTileWords(Bits(kType)) * 4;
  static constexpr int kBlockBytes = 4 * kPackedTileBytes;  // 64 columns x 64 of K

  // How the threads share the copies of a stage. A thread's copies differ by constants, so that one
  // pointer a kind, moved on at each step, serves all of them.
  static constexpr int kBlockVectors = kBlockBytes / 16;
  static constexpr int kThreadBlocks =
      S::kThreads / kBlockVectors;  // that one round of copies fills
  static constexpr int kThreadTokens = S::kThreads / 8;
  static_assert(S::kThreads % kBlockVectors == 0 && kThreadBlocks >= 1, "whole blocks a round");
  static_assert(S::kTokens % kThreadTokens == 0 || kThreadTokens % S::kTokens == 0,
                "a round of copies is whole rows of tokens, or a part of them");

  // Asks for the first weights to be brought to L2, while the kernel before this one may still run:
  // weights do not depend on it, and what lies in L2 is never out of date.
  __device__ __forceinline__ void Prefetch(int begin, int end) {
    const int thread = static_cast<int>(threadIdx.x);
    const int column = begin / p_.k_steps / m_tiles_ * (S::kN / kPackedTileN) + thread;
    if (begin >= end || thread >= S::kN / kPackedTileN || column >= p_.n / kPackedTileN) return;
    const int chunk = begin % p_.k_steps * S::kWarpsK;
    const int steps = min(p_.prefetch_steps, end - begin);
    const int chunks = min(steps * S::kWarpsK, p_.k / 64 - chunk);
    PrefetchL2(static_cast<const unsigned char*>(p_.weights) +
                   (static_cast<int64_t>(column) * (p_.k / 64) + chunk) * kBlockBytes,
               chunks * kBlockBytes);
  }

  // Rows of tokens that a thread copies.
  static constexpr int kThreadRows = S::kTokens > kThreadTokens ? S::kTokens / kThreadTokens : 1;

  // Points the loader at step `k_step` of tile `load_tile_`.
  __device__ __forceinline__ void Seek(int k_step) {
    const int thread = static_cast<int>(threadIdx.x);
    const int m_tile = load_tile_ % m_tiles_;
    load_n_ = load_tile_ / m_tiles_ * S::kN;
    load_k_ = k_step;
    chunks_left_ = p_.k / 64 - k_step * S::kWarpsK;
    const int block = thread / kBlockVectors;
    const int column = load_n_ / kPackedTileN + block / S::kWarpsK;
    const int chunk = k_step * S::kWarpsK + block % S::kWarpsK;
    columns_left_ = p_.n / kPackedTileN - column;
    weights_ = static_cast<const unsigned char*>(p_.weights) +
               (static_cast<int64_t>(column) * (p_.k / 64) + chunk) * kBlockBytes +
               thread % kBlockVectors * 16;
    expert_ = 0;
    if constexpr (kExperts) {
      // A tile at the end may be beyond the last: it is not loaded, but the loader looks.
      if (load_tile_ < m_tiles_ * p_.n_tiles) expert_ = max(p_.experts.experts[m_tile], 0);
      weights_ += expert_ * p_.experts.weight_bytes;
    }
    const int64_t k = (k_step * S::kWarpsK + thread / 8 / S::kTokens) * 64 + thread % 8 * 8;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int token = (thread / 8 + i * kThreadTokens) % S::kTokens;
      int row = m_tile * S::kTokens + token;
      row_valid_[i] = row < p_.m;
      if constexpr (kExperts) {
        row = OutputRow(m_tile, token);
        row_valid_[i] = row >= 0;
        row = max(row, 0) / p_.experts.top_k;
      }
      tokens_[i] = static_cast<const unsigned char*>(p_.a) + (row * p_.lda + k) * 2;
    }
  }

  // Row of c that place `token` of a tile is for, or -1.
  __device__ __forceinline__ int OutputRow(int m_tile, int token) const {
    if constexpr (!kExperts) {
      const int row = m_tile * S::kTokens + token;
      return row < p_.m ? row : -1;
    } else {
      if (token >= p_.experts.block || m_tile >= m_tiles_) return -1;
      const int row = p_.experts.sorted[m_tile * p_.experts.block + token];
      return row >= 0 && row < p_.experts.rows ? row : -1;
    }
  }

  // Starts the copies of the next step into `stage`; after the last step, an empty group.
  __device__ __forceinline__ void LoadNext(int stage, int end) {
    if (load_step_ < end) {
      unsigned char* const base = stages_ + stage * Bytes::kStage;
      LoadWeights(base);
      LoadTokens(base + Bytes::kWeights);
      LoadScales(base + Bytes::kWeights + Bytes::kTokens);
      ++load_step_;
      if (++load_k_ == p_.k_steps) {
        ++load_tile_;
        Seek(0);
      } else {
        chunks_left_ -= S::kWarpsK;
        weights_ += S::kWarpsK * kBlockBytes;
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) tokens_[i] += S::kK * 2;
      }
    }
    CopyCommit();
  }

  __device__ __forceinline__ void LoadWeights(unsigned char* to) {
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t column_bytes = static_cast<int64_t>(p_.k / 64) * kBlockBytes;
    const int chunks_left = chunks_left_ - thread / kBlockVectors % S::kWarpsK;
#pragma unroll
    for (int i = 0; i < Bytes::kWeights / 16 / S::kThreads; ++i) {
      constexpr int kStep = kThreadBlocks;
      const int chunk = i * kStep % S::kWarpsK, column = i * kStep / S::kWarpsK;
      CopyAsync16(to + (thread + i * S::kThreads) * 16,
                  weights_ + column * column_bytes + chunk * kBlockBytes,
                  column < columns_left_ && chunk < chunks_left);
    }
  }

  // Rows of 64 of K = 128 bytes; their eight 16-byte parts are permuted by the row's number, so
  // that eight rows of one part lie in different banks.
  __device__ __forceinline__ void LoadTokens(unsigned char* to) {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / 8;  // of kWarpsK x kTokens
    const int chunks_left = chunks_left_ - row / S::kTokens;
    unsigned char* const target = to + row * 128 + (thread % 8 ^ (row & 7)) * 16;
    constexpr int kRows = S::kWarpsK * S::kTokens;
#pragma unroll
    for (int i = 0; i < (kRows + kThreadTokens - 1) / kThreadTokens; ++i) {
      if (kRows < kThreadTokens && row >= kRows) break;
      const int turn = i % kThreadRows, chunk = i * kThreadTokens / S::kTokens;
      CopyAsync16(target + i * kThreadTokens * 128, tokens_[turn] + chunk * 128,
                  row_valid_[turn] && chunk < chunks_left);
    }
  }

  __device__ __forceinline__ void LoadScales(unsigned char* to) {
    if (!p_.per_channel) {
      LoadRows<S::kN / 8>(to, reinterpret_cast<const unsigned char*>(Scales(expert_)), p_.n * 2,
                          load_n_ * 2);
    }
    if constexpr (kHasZeros) {
      LoadRows<S::kN / 32>(to + Bytes::kScales,
                           reinterpret_cast<const unsigned char*>(Zeros(expert_)), p_.n / 2,
                           load_n_ / 2);
    }
  }

  __device__ __forceinline__ const uint16_t* Scales(int expert) const {
    const auto* const scales = static_cast<const uint16_t*>(p_.scales);
    return kExperts ? scales + expert * p_.experts.scale_elements : scales;
  }
  __device__ __forceinline__ const uint32_t* Zeros(int expert) const {
    return kExperts ? p_.zeros + expert * p_.experts.zero_words : p_.zeros;
  }

  // One row, or two for groups of 32, of kRowVectors x 16 bytes for each 64 of K, from rows of
  // `row_bytes` at `offset`.
  template <int kRowVectors>
  __device__ __forceinline__ void LoadRows(unsigned char* to, const unsigned char* from,
                                           int row_bytes, int offset) {
    static_assert(S::kWarpsK * 2 * kRowVectors <= S::kThreads, "one copy a thread");
    const int thread = static_cast<int>(threadIdx.x);
    const int part = thread % kRowVectors, row = thread / kRowVectors;
    const bool split = p_.group == 32;
    const int rows = split ? 2 * S::kWarpsK : S::kWarpsK;
    if (row >= rows) return;
    const int at = load_k_ * rows + row;  // in units of 32 or 64 of K
    const int group = static_cast<int>(static_cast<uint64_t>(at) * p_.group_magic >> 32);
    const bool valid = (split ? row / 2 : row) < chunks_left_ && offset + part * 16 < row_bytes;
    CopyAsync16(to + ((split ? row : 2 * row) * kRowVectors + part) * 16,
                from + static_cast<int64_t>(group) * row_bytes + offset + part * 16, valid);
  }

  // Until the oldest stage has arrived; every step commits one group.
  __device__ __forceinline__ void Wait() {
    switch (p_.stages) {
      case 2:
        return CopyWait<0>();
      case 3:
        return CopyWait<1>();
      case 4:
        return CopyWait<2>();
      case 5:
        return CopyWait<3>();
      case 6:
        return CopyWait<4>();
      case 7:
        return CopyWait<5>();
      default:
        return CopyWait<6>();
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total_[i][j][e] = 0;
      }
    }
  }

  // This warp's 64 of K of one stage.
  __device__ __forceinline__ void Multiply(const unsigned char* base) {
    const unsigned char* const weights = base + (packed_tile_ * S::kWarpsK + warp_k_) * kBlockBytes;
    const unsigned char* const tokens = base + Bytes::kWeights + warp_k_ * S::kTokens * 128;
    const unsigned char* const scales =
        base + Bytes::kWeights + Bytes::kTokens +
        (warp_k_ * 2 * S::kN + packed_tile_ * kPackedTileN + lane_ / 4 * 8 + first_mma_tile_ * 2) *
            2;
    const unsigned char* const zeros = base + Bytes::kWeights + Bytes::kTokens + Bytes::kScales +
                                       (warp_k_ * 2 * S::kN + packed_tile_ * kPackedTileN) / 2 +
                                       lane_ / 4 * 4;
    float sum[S::kMmaTiles][S::kTokenTiles][4];
    uint32_t zero[S::kMmaTiles][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool split = p_.group == 32;
      if constexpr (kHasZeros) {
        if (half == 0 || split)
          LoadZeros<T>(zero, zeros + (half != 0 ? S::kN / 2 : 0), first_mma_tile_);
      }
#pragma unroll
      for (int quarter = 0; quarter < 2; ++quarter) {
        const int slice = 2 * half + quarter;
        uint32_t b[S::kTokenTiles][2];
        LoadFragments(b, tokens, slice);
        uint32_t words[S::kMmaTiles * Bits(kType) / 4];
        LoadWords<kType, S::kMmaTiles>(words, weights + slice * kPackedTileBytes, lane_,
                                       first_mma_tile_);
#pragma unroll
        for (int i = 0; i < S::kMmaTiles; ++i) {
          uint32_t a[4];
          Dequantize<T, kType>(a, words, i, zero[i]);
#pragma unroll
          for (int j = 0; j < S::kTokenTiles; ++j) {
            if (slice == 0) {
              const float none[4] = {0, 0, 0, 0};
              T::Mma(sum[i][j], a, b[j], none);
            } else {
              T::Mma(sum[i][j], a, b[j], sum[i][j]);
            }
          }
        }
      }
      if (half == 1) {
        AddGroup(sum, scales + (split ? S::kN * 2 : 0));
      } else if (split) {
        AddGroup(sum, scales);
#pragma unroll
        for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
          for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
          }
        }
      }
    }
  }

  // The fragments of all tokens for the 16 of K number `slice`.
  __device__ __forceinline__ void LoadFragments(uint32_t (&b)[S::kTokenTiles][2],
                                                const unsigned char* tokens, int slice) {
    const int part = (2 * slice + lane_ / 8 % 2) ^ (lane_ & 7);
    if constexpr (S::kTokenTiles == 1) {
      LoadMatrix2(b[0], tokens + (lane_ & 7) * 128 + part * 16);
    } else {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; j += 2) {
        uint32_t four[4];
        LoadMatrix4(four, tokens + ((j + lane_ / 16) * 8 + (lane_ & 7)) * 128 + part * 16);
        b[j][0] = four[0];
        b[j][1] = four[1];
        b[j + 1][0] = four[2];
        b[j + 1][1] = four[3];
      }
    }
  }

  __device__ __forceinline__ void AddGroup(const float (&sum)[S::kMmaTiles][S::kTokenTiles][4],
                                           const unsigned char* scales) {
    uint32_t pairs[S::kMmaTiles] = {};
    if (!p_.per_channel) LoadScalePairs(pairs, scales);
    AddScaled<T, kType>(total_, sum, pairs, p_.per_channel != 0);
  }

  // All of K that this block has of `tile` is in: adds the warps up, then the blocks, and writes.
  __device__ __forceinline__ void Epilogue(int tile, bool shared_tile) {
    if constexpr (S::kWarpsK > 1) {
      float4* const sums = reinterpret_cast<float4*>(rest_);
      constexpr int kWarpSums = Bytes::kSums / 16;
      if (warp_k_ > 0) {
        float4* const mine = sums + ((warp_k_ - 1) * S::kWarpsN + warp_n_) * kWarpSums;
#pragma unroll
        for (int f = 0; f < S::kMmaTiles * S::kTokenTiles; ++f) mine[f * kLanes + lane_] = Sum(f);
      }
      __syncthreads();
      if (warp_k_ == 0) {
#pragma unroll
        for (int w = 0; w < S::kWarpsK - 1; ++w) {
#pragma unroll
          for (int f = 0; f < S::kMmaTiles * S::kTokenTiles; ++f) {
            Add(f, sums[(w * S::kWarpsN + warp_n_) * kWarpSums + f * kLanes + lane_]);
          }
        }
      }
    }
    if (shared_tile && !Gather(tile)) return;
    if (warp_k_ == 0) Write(tile);
  }

  // Hands this block's sums in. True in the block that came last, which then holds the whole tile.
  __device__ __forceinline__ bool Gather(int tile) {
    const int first = static_cast<int>(static_cast<int64_t>(tile) * p_.k_steps / block_steps_);
    const int last =
        static_cast<int>((static_cast<int64_t>(tile + 1) * p_.k_steps - 1) / block_steps_);
    const int self = static_cast<int>(blockIdx.x);
    if (warp_k_ == 0) {
      float4* const mine = Slot(tile, self);
#pragma unroll
      for (int f = 0; f < S::kMmaTiles * S::kTokenTiles; ++f) mine[f * kLanes] = Sum(f);
    }
    __syncthreads();
    int32_t* const lock = p_.locks + (p_.lock_by_tile ? tile : first);
    int& came = *reinterpret_cast<int*>(rest_);
    if (threadIdx.x == 0) {
      came = AddInOrder(lock, 1);
      if (came == last - first) *lock = 0;  // as the next launch wants it
    }
    __syncthreads();
    const bool is_last = came == last - first;
    __syncthreads();  // `came` lies where sums of the next tile, or this one's output, go
    if (is_last && warp_k_ == 0) {
      Clear();
      constexpr int kFragments = S::kMmaTiles * S::kTokenTiles;
      constexpr int kAtOnce = kFragments <= 8 ? 2 : 1;  // whose loads are on their way together
      for (int block = first; block <= last; block += kAtOnce) {
        float4 sums[kAtOnce][kFragments];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float4* const slot = Slot(tile, min(block + i, last));
#pragma unroll
          for (int f = 0; f < kFragments; ++f) sums[i][f] = __ldcg(slot + f * kLanes);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (block + i > last) break;
#pragma unroll
          for (int f = 0; f < kFragments; ++f) Add(f, sums[i][f]);
        }
      }
    }
    return is_last;
  }

  // A block shares at most two tiles with others: one that it starts in the middle, then one whose
  // beginning it does.
  __device__ __forceinline__ float4* Slot(int tile, int block) const {
    const bool starts =
        static_cast<int64_t>(tile) * p_.k_steps >= static_cast<int64_t>(block) * block_steps_;
    constexpr int kWarpSums = Bytes::kSums / 16;
    return reinterpret_cast<float4*>(p_.partials) +
           ((2 * static_cast<int64_t>(block) + (starts ? 1 : 0)) * S::kWarpsN + warp_n_) *
               kWarpSums +
           lane_;
  }

  // Scale per channel, bias, rounding; through shared memory, so that rows are written in a piece.
  __device__ __forceinline__ void Write(int tile) {
    constexpr int kColumns = S::kMmaTiles * 16;
    constexpr int kPitch = kColumns * 2 + 16;
    static_assert(S::kTokens * kPitch <= Bytes::kSums + 0, "the warp's output fits its sums");
    unsigned char* const staging = rest_ + warp_n_ * Bytes::kSums;
    const int n0 = tile / m_tiles_ * S::kN + warp_n_ * kColumns;
    const int m_tile = tile % m_tiles_;
    const bool in_range = n0 < p_.n;
    const auto* bias = static_cast<const uint16_t*>(p_.bias);
    int expert = 0;
    float factor[S::kTokenTiles][2];
    if constexpr (kExperts) {
      expert = p_.experts.experts[m_tile];
      if (expert < 0) return;
      if (bias != nullptr) bias += expert * p_.experts.bias_elements;
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = OutputRow(m_tile, 8 * j + 2 * (lane_ % 4) + e);
          const bool weighted = p_.experts.router_weights != nullptr && row >= 0;
          factor[j][e] = weighted ? p_.experts.router_weights[row] : 1.f;
        }
      }
    }
    const uint16_t* const scales = Scales(expert);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int column = 16 * i + 8 * high + lane_ / 4;
        const int position = in_range ? ChannelPosition(n0 + column) : 0;
        const float scale = p_.per_channel ? Scale<T, kType>(scales[position]) : 1.f;
        const float offset = bias != nullptr ? T::ToFloat(bias[position]) : 0.f;
#pragma unroll
        for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int token = 8 * j + 2 * (lane_ % 4) + e;
            float value = total_[i][j][2 * high + e] * scale + offset;
            if constexpr (kExperts) value *= factor[j][e];
            *reinterpret_cast<uint16_t*>(staging + token * kPitch + column * 2) =
                T::FromFloat(value);
          }
        }
      }
    }
    __syncwarp();
    constexpr int kParts = kColumns / 8;
#pragma unroll
    for (int i = 0; i < S::kTokens * kParts / kLanes; ++i) {
      const int token = (i * kLanes + lane_) / kParts;
      const int part = (i * kLanes + lane_) % kParts;
      const int row = OutputRow(m_tile, token);
      if (in_range && row >= 0) {
        uint16_t* const to = static_cast<uint16_t*>(p_.c) + static_cast<int64_t>(row) * p_.n + n0;
        *reinterpret_cast<uint4*>(to + part * 8) =
            *reinterpret_cast<const uint4*>(staging + token * kPitch + part * 16);
      }
    }
    __syncwarp();
  }

  // Fragment number `f` of the sums.
  __device__ __forceinline__ float4 Sum(int f) const {
    const float (&s)[4] = total_[f / S::kTokenTiles][f % S::kTokenTiles];
    return make_float4(s[0], s[1], s[2], s[3]);
  }
  __device__ __forceinline__ void Add(int f, const float4& sum) {
    float (&s)[4] = total_[f / S::kTokenTiles][f % S::kTokenTiles];
    s[0] += sum.x;
    s[1] += sum.y;
    s[2] += sum.z;
    s[3] += sum.w;
  }

  const MarlinParams& p_;
  unsigned char* const stages_;
  unsigned char* const rest_;
  const int lane_, warp_n_, warp_k_;
  int packed_tile_;     // of the block's columns that this warp works on,
  int first_mma_tile_;  // from this of its four tiles on
  // The next step to load: its place, this thread's sources, and how much lies beyond these.
  int load_step_, load_tile_, load_k_, load_n_;
  const unsigned char* weights_;
  const unsigned char* tokens_[kThreadRows];
  bool row_valid_[kThreadRows];
  int expert_, chunks_left_, columns_left_;
  int m_tiles_, block_steps_;
  float total_[S::kMmaTiles][S::kTokenTiles][4];
};

template <class T, WeightType kType, class S, bool kExperts>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    MarlinKernel(const __grid_constant__ MarlinParams params) {
  extern __shared__ __align__(128) unsigned char vk_shared[];
  MarlinBlock<T, kType, S, kExperts>(params, vk_shared).Run();
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_
