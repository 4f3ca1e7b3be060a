// Grouped product on Hopper: a producer thread streams weights and tokens through shared memory by
// bulk tensor copies, two warpgroups multiply. Weights are the rows of the tensor cores' tile and
// tokens its columns, so that a tile takes as few as 16 tokens; blocks stay for the whole problem
// and find their tiles in the sizes, which the host never sees.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/moe_gemm/grouped.h"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::moe_gemm {

template <int kTokens>
struct Tile {
  static constexpr int kThreads = 384;
  static constexpr int kWarps = 8;  // that multiply
  static constexpr int kWeightBytes = kWeightRows * kDepth;
  static constexpr int kTokenBytes = kTokens * kDepth;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  // Results leave through shared memory, so many tokens of a warpgroup at a time.
  static constexpr int kOutTokens = kTokens < 64 ? kTokens : 64;
  static constexpr int kOutBytes = kOutTokens * 128;
  static constexpr int kTableBytes = 4 * (3 * kMaxExperts + 4);
  static constexpr int kOtherBytes = 2 * kOutBytes + 2 * 4 * kTokens + kTableBytes + 16 * 16;
  static constexpr int kLimit = 227 * 1024 - 1024;  // 1 KiB is for aligning the stages
  static constexpr int kFitting = (kLimit - kOtherBytes) / kStageBytes;
  static constexpr int kStages = kFitting < 12 ? kFitting : 12;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + kOtherBytes;
  static_assert(kStages >= 3);
};

// The assembler of CUDA 12 lets products of a tile wait for each other where the first one
// overwrites the sums by a flag; cleared sums cost a few cycles.
#if defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ < 13
constexpr bool kClearSums = true;
#else
constexpr bool kClearSums = false;
#endif

// Of each expert, in shared memory: first row and count of its tokens, tiles of tokens before it.
struct Table {
  int32_t* before;  // [experts + 1]
  int32_t* first;
  int32_t* count;
};

// All threads of the block.
template <int kTokens>
__device__ __forceinline__ void FillTable(const Grouped& g, const Table& table) {
  for (int expert = threadIdx.x; expert < g.experts; expert += Tile<kTokens>::kThreads) {
    const int32_t* size = g.sizes + 3 * expert;
    const int64_t first = g.wide_first_rows ? static_cast<const int64_t*>(g.first_rows)[expert]
                                            : static_cast<const int32_t*>(g.first_rows)[expert];
    // The engine turns tokens and n around where there are few tokens.
    int64_t count = size[1] == g.n ? size[0] : size[0] == g.n ? size[1] : 0;
    // Nothing outside of the tensors, whatever the sizes say.
    if (first < 0 || count < 0) count = 0;
    if (count > g.rows - first) count = first < g.rows ? g.rows - first : 0;
    table.first[expert] = static_cast<int32_t>(first);
    table.count[expert] = static_cast<int32_t>(count);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int32_t total = 0;
    for (int base = 0; base < g.experts; base += 32) {
      const int expert = base + lane;
      const int32_t tiles = expert < g.experts ? (table.count[expert] + kTokens - 1) / kTokens : 0;
      int32_t sum = tiles;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      if (expert < g.experts) table.before[expert] = total + sum - tiles;
      total += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) table.before[g.experts] = total;
  }
  __syncthreads();
}

struct Piece {
  int32_t expert, first_row, count;  // tokens of the tile; count: those of the expert
  int32_t weight_row;
};

// Tile `index`: of an expert's tiles those that read the same weights follow each other, in groups
// of as many tokens as the L2 holds beside them. Their order turns by one each time that all blocks
// have taken a tile: else a block would always get an expert's last one, which is small, or never.
template <int kTokens>
__device__ __forceinline__ Piece FindPiece(const Grouped& g, const Table& table, int32_t columns,
                                           int32_t index) {
  constexpr int kGroup = 2048 / kTokens;
  const int32_t tile = index / columns;
  int low = 0, high = g.experts;  // the last expert with before[expert] <= tile
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.before[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int32_t tiles = table.before[low + 1] - table.before[low];
  int32_t local = index - table.before[low] * columns;
  const int32_t group = local / (kGroup * columns);
  local -= group * kGroup * columns;
  const int32_t members = min(kGroup, tiles - group * kGroup);
  const int32_t column = local / members;
  const int32_t turn = column * members / static_cast<int32_t>(gridDim.x);
  const int32_t member = (local - column * members + turn) % members;
  const int32_t first = (group * kGroup + member) * kTokens;
  return {low, table.first[low] + first, min(kTokens, table.count[low] - first),
          column * kWeightRows};
}

// Writes a warpgroup's 64 weight rows of the tile; `buffer` and `scales` are the warpgroup's.
template <class T, int kTokens>
__device__ __forceinline__ void StoreTile(const Grouped& g, const Piece& piece,
                                          const float (&sums)[kTokens / 2],
                                          const float (&row_scales)[2], const float* scales,
                                          char* buffer, int group) {
  constexpr int kOutTokens = Tile<kTokens>::kOutTokens;
  const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32, lane = thread % 32;
  const uint32_t address = ptx::cvta_to_shared(buffer);
  const int32_t first_column = piece.weight_row + group * 64;
#pragma unroll
  for (int begin = 0; begin < kTokens; begin += kOutTokens) {
    if (begin >= piece.count) continue;
    ptx::named_barrier_sync(1 + group, 128);  // the buffer is free
#pragma unroll
    for (int token = 0; token < kOutTokens; token += 16) {
      const int at = (begin + token) / 2;  // of the sums
      const float* scale = scales + begin + token + lane % 4 * 2;
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float row = row_scales[i % 2], *two = scale + i / 2 * 8;
        pairs[i] =
            PackPair<T>(sums[at + 2 * i] * (row * two[0]), sums[at + 2 * i + 1] * (row * two[1]));
      }
      const int row = token + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
      ptx::stmatrix_x4_trans(address + row * 128 + ((chunk ^ (row % 8)) * 16), pairs);
    }
    ptx::named_barrier_sync(1 + group, 128);
    for (int i = thread; i < kOutTokens * 8; i += 128) {
      const int row = i / 8, chunk = i % 8;
      if (begin + row >= piece.count || first_column + chunk * 8 >= g.n) continue;
      T* to = static_cast<T*>(g.out) + (int64_t{piece.first_row} + begin + row) * g.out_stride +
              first_column + chunk * 8;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(buffer + row * 128 + (chunk ^ (row % 8)) * 16);
    }
  }
}

// The sums of the first kBoxes boxes of a tile (of all, where it has no more).
template <int kBox, int kBoxes, int kCount>
__device__ __forceinline__ auto& FirstBoxes(float (&sums)[kCount]) {
  constexpr int kPart = kBoxes * kBox / 2 < kCount ? kBoxes * kBox / 2 : kCount;
  return reinterpret_cast<float (&)[kPart]>(sums);
}

template <class T, int kTokens>
__global__ void __launch_bounds__(Tile<kTokens>::kThreads, 1)
    GroupedKernel(const __grid_constant__ Grouped g, const __grid_constant__ CUtensorMap weight_map,
                  const __grid_constant__ CUtensorMap token_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Tile = Tile<kTokens>;
  constexpr int kStages = Tile::kStages, kBox = BoxTokens(kTokens);
  extern __shared__ char unaligned[];
  char* shared = unaligned + ((1024 - (ptx::cvta_to_shared(unaligned) & 1023)) & 1023);
  const uint32_t stages = ptx::cvta_to_shared(shared);
  char* others = shared + kStages * Tile::kStageBytes;
  char* out_buffers = others;
  float* scales = reinterpret_cast<float*>(others + 2 * Tile::kOutBytes);
  int32_t* numbers = reinterpret_cast<int32_t*>(scales + 2 * kTokens);
  const Table table = {numbers + 2 * kMaxExperts, numbers, numbers + kMaxExperts};
  const uint32_t full = ptx::cvta_to_shared(numbers + 3 * kMaxExperts + 4),
                 empty = full + 8 * kStages;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(full + 8 * stage, 1);
      ptx::mbarrier_init(empty + 8 * stage, Tile::kWarps);
    }
    ptx::fence_mbarrier_init();
  }
  FillTable<kTokens>(g, table);

  const int32_t columns = (g.n + kWeightRows - 1) / kWeightRows;
  const int32_t work = table.before[g.experts] * columns;
  const int32_t first = static_cast<int32_t>(blockIdx.x), step = static_cast<int32_t>(gridDim.x);
  const int32_t depth = (g.k + kDepth - 1) / kDepth;
  int stage = 0, phase = 0;
  const auto advance = [&] {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  };

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x == 0) {
      for (int32_t index = first; index < work; index += step) {
        const Piece piece = FindPiece<kTokens>(g, table, columns, index);
        const int boxes = (piece.count + kBox - 1) / kBox;
        for (int32_t i = 0; i < depth; ++i, advance()) {
          ptx::mbarrier_wait_parity(empty + 8 * stage, phase ^ 1);
          ptx::mbarrier_arrive_expect_tx(full + 8 * stage,
                                         Tile::kWeightBytes + boxes * kBox * kDepth);
          const uint32_t to = stages + stage * Tile::kStageBytes;
          ptx::tma_load_3d(to, &weight_map, full + 8 * stage, i * kDepth, piece.weight_row,
                           piece.expert);
          for (int box = 0; box < boxes; ++box) {
            ptx::tma_load_3d(to + Tile::kWeightBytes + box * kBox * kDepth, &token_map,
                             full + 8 * stage, i * kDepth, piece.first_row + box * kBox, 0);
          }
        }
      }
    }
  } else {
    ptx::setmaxnreg_inc<232>();
    const int group = static_cast<int>(threadIdx.x) / 128 - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
    char* buffer = out_buffers + group * Tile::kOutBytes;
    float* my_scales = scales + group * kTokens;
    const auto release = [&](int used) {
      if (lane == 0) ptx::mbarrier_arrive(empty + 8 * used);
    };
    for (int32_t index = first; index < work; index += step) {
      const Piece piece = FindPiece<kTokens>(g, table, columns, index);
      float row_scales[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t row = piece.weight_row + group * 64 + thread / 32 * 16 + lane / 4 + 8 * half;
        const int64_t at = g.per_channel ? int64_t{piece.expert} * g.n + row : piece.expert;
        row_scales[half] = row < g.n ? g.weight_scales[at] : 0.0f;
      }
      // Loaded now and stored when the products are done, so that none of them waits.
      constexpr int kHeld = (kTokens + 127) / 128;
      float held_scales[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int token = thread + 128 * i;
        const int64_t at = g.per_token    ? int64_t{piece.first_row} + token
                           : g.per_expert ? piece.expert
                                          : 0;
        held_scales[i] = token < piece.count ? g.token_scales[at] : 0.0f;
      }

      float sums[kTokens / 2];
      if constexpr (kClearSums) {
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
      }
      // All products of the tile, into as many of its sums as are given.
      const auto multiply = [&](auto& part) {
        int before = 0;
        for (int32_t i = 0; i < depth; ++i) {
          ptx::mbarrier_wait_parity(full + 8 * stage, phase);
          const uint32_t weights = stages + stage * Tile::kStageBytes + group * 64 * kDepth;
          const uint32_t tokens = stages + stage * Tile::kStageBytes + Tile::kWeightBytes;
          ptx::warpgroup_fence_operand(part);
          ptx::wgmma_fence();
#pragma unroll
          for (int k = 0; k < kDepth; k += 32) {
            ptx::wgmma_ss<E4M3>(part, sm90::MakeSmemDesc<ptx::Major::kK>(weights + k),
                                sm90::MakeSmemDesc<ptx::Major::kK>(tokens + k),
                                kClearSums || i > 0 || k > 0);
          }
          ptx::wgmma_commit_group();
          if (i > 0) {
            // The stage before is read; this one's products go on.
            ptx::wgmma_wait_group<1>();
            ptx::warpgroup_fence_operand(part);
            release(before);
          }
          before = stage;
          advance();
        }
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(part);
        release(before);
      };
      const int boxes = (piece.count + kBox - 1) / kBox;
      if (kTokens / kBox > 1 && boxes == 1) {
        multiply(FirstBoxes<kBox, 1>(sums));
      } else if (kTokens / kBox > 2 && boxes == 2) {
        multiply(FirstBoxes<kBox, 2>(sums));
      } else if (kTokens / kBox > 3 && boxes == 3) {
        multiply(FirstBoxes<kBox, 3>(sums));
      } else {
        multiply(sums);
      }
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (thread + 128 * i < kTokens) my_scales[thread + 128 * i] = held_scales[i];
      }
      StoreTile<T, kTokens>(g, piece, sums, row_scales, my_scales, buffer, group);
    }
  }
#endif
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_
