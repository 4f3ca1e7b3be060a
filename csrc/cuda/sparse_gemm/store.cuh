// From a tile's sums to results: scaled and rounded in registers, transposed through shared memory,
// written in whole lines.
#ifndef VLLM_KERNELS_CUDA_SPARSE_GEMM_STORE_CUH_
#define VLLM_KERNELS_CUDA_SPARSE_GEMM_STORE_CUH_

#include <cutlass/arch/barrier.h>

#include "cuda/gemm/store_direct_3x.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/ldmatrix.cuh"

namespace vk::cuda::sparse_gemm {

// Of a tile of kColumns columns and kTokens rows of the result, which the kernel has as rows and
// columns: two groups of warps with 64 of the columns each, as wgmma leaves them.
template <class Sum, int kColumns, int kTokens>
class TransposingEpilogue : public gemm::EpilogueBase<Sum> {
 public:
  static constexpr int kThreads = 2 * kColumns;
  static constexpr int kPitch = kColumns + 8;  // eight rows then start in different banks
  static_assert(kColumns % 64 == 0 && kTokens % 16 == 0, "whole instructions");
  struct SharedStorage {
    alignas(16) uint16_t tile[kTokens][kPitch];
  };
  using typename gemm::EpilogueBase<Sum>::Params;

  CUTLASS_HOST_DEVICE explicit TransposingEpilogue(const Params& params)
      : gemm::EpilogueBase<Sum>(params) {}

  template <class Shape, class Tile, class Coordinates, class Engine, class Layout, class TiledMma,
            class Residue>
  CUTLASS_DEVICE void operator()(const Shape& shape, const Tile& tile, const Coordinates& at,
                                 const cute::Tensor<Engine, Layout>& sums, TiledMma, const Residue&,
                                 int thread, char* shared) const {
    static_assert(cute::size(Layout{}) == kTokens / 2 && cute::size(TiledMma{}) == kThreads &&
                      cute::size<0>(Tile{}) == kColumns && cute::size<1>(Tile{}) == kTokens,
                  "one instruction's sums a thread");
    const int column0 = cute::get<0>(at) * kColumns, columns = cute::get<0>(shape);
    const int token0 = cute::get<1>(at) * kTokens, tokens = cute::get<1>(shape);
    auto& staged = *reinterpret_cast<SharedStorage*>(shared);
    const int lane = thread % 32, rows = thread / 32 * 16;  // of the kernel's tile, of this warp
    float a[kTokens / 4], b[2], bias[2];
    CUTLASS_PRAGMA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int column = min(column0 + rows + 8 * half + lane / 4, columns - 1);
      b[half] = this->BScale(column);
      bias[half] = this->Bias(column);
    }
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kTokens / 4; ++i) {
      a[i] = this->AScale(min(token0 + i / 2 * 8 + lane % 4 * 2 + i % 2, tokens - 1));
    }
    Meet();  // the tile before this one has been read
    const auto to =
        ptx::cvta_to_shared(&staged.tile[lane / 16 * 8 + lane % 8][rows + lane / 8 % 2 * 8]);
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kTokens / 8; i += 2) {
      uint32_t words[4];  // 8 tokens, 8 columns each: the next columns, then the next tokens
      CUTLASS_PRAGMA_UNROLL
      for (int w = 0; w < 4; ++w) {
        const int block = i + w / 2, half = w % 2;
        const auto result = [&](int e) {
          return a[2 * block + e] * (b[half] * static_cast<float>(sums(4 * block + 2 * half + e))) +
                 bias[half];
        };
        words[w] = this->Rounded(result(0), result(1));
      }
      ptx::stmatrix_x4_trans(to + i * 8 * kPitch * 2, words);
    }
    Meet();
    constexpr int kVectors = kColumns / 8;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kTokens * kVectors / kThreads; ++i) {
      const int vector = thread + i * kThreads;
      const int token = vector / kVectors, column = vector % kVectors * 8;
      if (token0 + token >= tokens || column0 + column >= columns) continue;
      *reinterpret_cast<uint4*>(this->p_.out + (token0 + token) * this->p_.ldo + column0 + column) =
          *reinterpret_cast<const uint4*>(&staged.tile[token][column]);
    }
  }

 private:
  static CUTLASS_DEVICE void Meet() {
    cutlass::arch::NamedBarrier::sync(kThreads,
                                      cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);
  }
};

}  // namespace vk::cuda::sparse_gemm
#endif  // VLLM_KERNELS_CUDA_SPARSE_GEMM_STORE_CUH_
