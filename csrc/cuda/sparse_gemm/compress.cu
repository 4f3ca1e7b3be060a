// Two of four weights, and where they were.
#include <cstdint>

#include "cuda/common/launch.h"
#include "cuda/sparse_gemm/launch.h"

namespace vk::cuda::sparse_gemm {
namespace {

constexpr int kPiece = 16;  // elements of a row that a thread compresses

// Order of magnitude as an integer.
template <class Raw>
__device__ __forceinline__ int Magnitude(Raw bits, bool integer) {
  constexpr int kSign = 1 << (8 * sizeof(Raw) - 1);
  if (integer) return abs(static_cast<int>(static_cast<int8_t>(bits)));
  return bits & (kSign - 1);
}

// Where the metadata of a piece starts, in elements of the weight (PTX: sparse wgmma's metadata;
// CUTLASS copies whole blocks).
template <class Raw>
__device__ __forceinline__ int64_t MetadataAt(int64_t row, int64_t column, int64_t rows) {
  constexpr int64_t kColumns = BlockColumns(sizeof(Raw));
  const int64_t block = column / kColumns * (rows / kBlockRows) + row / kBlockRows;
  const int m = row % kBlockRows, k = column % kColumns;
  int within = m * static_cast<int>(kColumns) + k;
  if constexpr (sizeof(Raw) == 2) {
    within = m / 8 % 2 * 16 + k / 32 * 32 + m % 8 * 64 + k / 16 % 2 * 512 + m / 16 * 1024;
  }
  return block * kBlockRows * kColumns + within;
}

// One thread a piece, those that only fill up blocks too.
template <class Raw>
__global__ void CompressKernel(const Raw* __restrict__ weight, Raw* __restrict__ values,
                               uint8_t* __restrict__ metadata, int64_t n, int64_t k, int64_t ldw,
                               int64_t rows, int64_t pieces, bool integer) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = index / pieces, column = index % pieces * kPiece;
  if (row >= rows) return;
  uint32_t kept = 0x4444;  // the first two of four
  if (row < n && column < k) {
    kept = 0;
    const Raw* from = weight + row * ldw + column;
    Raw* to = values + row * (k / 2) + column / 2;
    for (int group = 0; group < kPiece / 4; ++group) {
      Raw bits[4];
      int size[4];
      for (int i = 0; i < 4; ++i) {
        bits[i] = from[4 * group + i];
        size[i] = Magnitude(bits[i], integer);
      }
      int first = 0;
      for (int i = 1; i < 4; ++i) first = size[i] > size[first] ? i : first;
      int second = first == 0 ? 1 : 0;
      for (int i = second + 1; i < 4; ++i) {
        second = i != first && size[i] > size[second] ? i : second;
      }
      const int low = min(first, second), high = max(first, second);
      to[2 * group] = bits[low];
      to[2 * group + 1] = bits[high];
      kept |= static_cast<uint32_t>(low | high << 2) << (4 * group);
    }
  }
  uint8_t* at = metadata + MetadataAt<Raw>(row, column, rows) / 8;
  at[0] = static_cast<uint8_t>(kept);
  at[1] = static_cast<uint8_t>(kept >> 8);
}

}  // namespace

void Compress(const Compression& p) {
  constexpr int kThreads = 256;
  const int64_t rows = RoundUp(p.n, kBlockRows);
  const int64_t pieces = RoundUp(p.k, kFilledColumns) / kPiece;
  const unsigned grid = GridX(p.op, CeilDiv(rows * pieces, kThreads));
  const auto launch = [&](auto raw) {
    using Raw = decltype(raw);
    CompressKernel<<<grid, kThreads, 0, p.stream>>>(static_cast<const Raw*>(p.weight),
                                                    static_cast<Raw*>(p.values), p.metadata, p.n,
                                                    p.k, p.ldw, rows, pieces, p.dtype == VK_I8);
  };
  if (DtypeSize(p.dtype) == 1) {
    launch(uint8_t{});
  } else {
    launch(uint16_t{});
  }
  CheckLaunch(p.op);
}

}  // namespace vk::cuda::sparse_gemm
