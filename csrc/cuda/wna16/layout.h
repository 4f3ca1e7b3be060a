// How weights lie in memory after gptq_marlin_repack and awq_marlin_repack, and how the engine's
// Python permutes scales, zero points and biases to go with it.
//
// Weights are cut into packed tiles of 64 columns x 16 rows of K, ordered [N / 64][K / 16], so that
// a block of columns streams contiguous memory. Columns are the M side of mma.m16n8k16 (the tokens
// are its n8): a packed tile holds the A fragments of four such tiles, for each lane as one 16-byte
// vector (4 bits) or two (8 bits). Inside a 32-bit word the two K neighbours of a fragment register
// lie 16 bits apart, where one lop3 turns them into a pair of floats (dequant.cuh).
#ifndef VLLM_KERNELS_CUDA_WNA16_LAYOUT_H_
#define VLLM_KERNELS_CUDA_WNA16_LAYOUT_H_

#include <cstdint>

#if defined(__CUDACC__)
#define VK_HOST_DEVICE __host__ __device__
#else
#define VK_HOST_DEVICE
#endif

namespace vk::cuda::wna16 {

inline constexpr int kPackedTileN = 64;
inline constexpr int kPackedTileK = 16;
inline constexpr int kLanes = 32;

// Words of 32 bits in a packed tile.
VK_HOST_DEVICE constexpr int PackedTileWords(int bits) {
  return kPackedTileN * kPackedTileK * bits / 32;
}

template <int kBits>
struct alignas(16) PackedTile {
  uint32_t words[PackedTileWords(kBits)];
};

struct Place {
  int k;  // 0..15 inside the packed tile
  int n;  // 0..63
};

// The weight that element `element` (from the low bits up) of word `word` of a packed tile holds.
VK_HOST_DEVICE constexpr Place PackedTilePlace(int bits, int word, int element) {
  int lane = 0, tile = 0, pair = 0, second = 0;
  if (bits == 4) {
    lane = word / 4;
    tile = word % 4;
    pair = element % 4;  // fragment register a0..a3
    second = element / 4;
  } else {
    const int half = word / 128;
    lane = word % 128 / 4;
    tile = 2 * half + word % 4 / 2;
    pair = 2 * (word % 2) + element % 2;
    second = element / 2;
  }
  return {2 * (lane % 4) + second + 8 * (pair / 2), 16 * tile + lane / 4 + 8 * (pair % 2)};
}

// Where the engine's permutations put column `n` of a row: for scales per group and zero points
// (blocks of 64 columns: a fragment's rows side by side) ...
VK_HOST_DEVICE constexpr int GroupedPosition(int n) { return n / 64 * 64 + n % 8 * 8 + n % 64 / 8; }
// ... and for scales per channel and biases (blocks of 32 columns).
VK_HOST_DEVICE constexpr int ChannelPosition(int n) {
  return n / 32 * 32 + n % 8 / 2 * 8 + n % 32 / 8 * 2 + n % 2;
}
// FP4's scales lie as those per group, but for the second and third of each four, which change
// places: a word of four bytes then holds pairs of rows 16 bits apart.
VK_HOST_DEVICE constexpr int Fp4ScalePosition(int n) {
  const int position = GroupedPosition(n);
  return position / 4 * 4 + position % 2 * 2 + position % 4 / 2;
}
// Element inside its 32-bit word of the 4-bit zero point whose grouped position is `position`.
VK_HOST_DEVICE constexpr int ZeroElement(int position) {
  return position % 2 * 4 + position % 8 / 2;
}

// AWQ's order of the columns in a word of N-packed weights: column c of the word is this element.
VK_HOST_DEVICE constexpr int AwqElement(int bits, int column) {
  return bits == 4 ? column % 2 * 4 + column / 2 : column % 2 * 2 + column / 2;
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LAYOUT_H_
