#ifndef VLLM_KERNELS_TESTS_PTX_LDMATRIX_CUH_
#define VLLM_KERNELS_TESTS_PTX_LDMATRIX_CUH_

#include "device.h"

namespace vk::cuda::ptx {

// Where the lane's elements 0 and 1 of each 8x8 matrix are.
template <class Body>
void ForFragments(uint32_t address, int matrices, bool transposed, const Body& body) {
  uint32_t rows[32];
  const int lane = emulation::Lane();
  if (lane < 8 * matrices) emulation::Shared(address, 16, 16);
  emulation::Exchange(address, rows);
  for (int matrix = 0; matrix < matrices; ++matrix) {
    for (int i = 0; i < 2; ++i) {
      const int row = transposed ? 2 * (lane % 4) + i : lane / 4;
      const int column = transposed ? lane / 4 : 2 * (lane % 4) + i;
      body(matrix, 16 * i, emulation::Shared(rows[8 * matrix + row] + 2 * column, 2));
    }
  }
}

template <int kMatrices>
void LoadFragments(uint32_t (&r)[kMatrices], uint32_t address, bool transposed) {
  std::fill(std::begin(r), std::end(r), 0);
  ForFragments(address, kMatrices, transposed, [&](int matrix, int shift, const char* from) {
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    r[matrix] |= static_cast<uint32_t>(bits) << shift;
  });
}
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) { LoadFragments(r, address, false); }
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t address) { LoadFragments(r, address, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  LoadFragments(r, address, true);
}
inline void StoreFragments(uint32_t address, const uint32_t (&r)[4], bool transposed) {
  ForFragments(address, 4, transposed, [&](int matrix, int shift, char* to) {
    const uint16_t bits = static_cast<uint16_t>(r[matrix] >> shift);
    std::memcpy(to, &bits, 2);
  });
}
inline void stmatrix_x4(uint32_t address, const uint32_t (&r)[4]) {
  StoreFragments(address, r, false);
}
inline void stmatrix_x4_trans(uint32_t address, const uint32_t (&r)[4]) {
  StoreFragments(address, r, true);
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_LDMATRIX_CUH_
