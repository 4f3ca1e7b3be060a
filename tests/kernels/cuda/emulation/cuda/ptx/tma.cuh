#ifndef VLLM_KERNELS_TESTS_PTX_TMA_CUH_
#define VLLM_KERNELS_TESTS_PTX_TMA_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void prefetch_tensormap(const CUtensorMap*) {}

inline void LoadBox(uint32_t shared, const CUtensorMap* tensor, uint32_t barrier,
                    const std::vector<int32_t>& at) {
  const emulation::Map map = *reinterpret_cast<const emulation::Map*>(tensor);
  const int items = map.plain ? static_cast<int>(map.box[0]) : 128 / map.item;
  const uint32_t row_bytes = static_cast<uint32_t>(items * map.item);
  uint32_t rows = 1;
  for (int dim = 1; dim < map.dims; ++dim) rows *= map.box[dim];
  if (map.dims != static_cast<int>(at.size()) || map.box[0] != static_cast<uint32_t>(items) ||
      shared % 128 != 0 || row_bytes % 16 != 0) {
    emulation::Fail("box of a copy");
  }
  emulation::CopyLate(shared, rows * row_bytes, barrier, [=] {
    for (uint32_t row = 0; row < rows; ++row) {
      int64_t offset = 0;
      bool inside = true;
      uint32_t rest = row;
      for (int dim = 1; dim < map.dims; ++dim) {
        const int64_t index = at[dim] + static_cast<int64_t>(rest % map.box[dim]);
        rest /= map.box[dim];
        inside = inside && index >= 0 && index < map.size[dim];
        offset += index * map.stride[dim - 1];
      }
      for (int x = 0; x < items; ++x) {
        const int64_t column = at[0] + x;
        const uint32_t address = shared + row * row_bytes + static_cast<uint32_t>(x * map.item);
        const uint32_t size = static_cast<uint32_t>(map.item);
        char* to =
            map.plain ? emulation::Shared(address, size) : emulation::Swizzled(address, size);
        if (inside && column < map.size[0]) {
          std::memcpy(to, map.data + offset + map.item * column, map.item);
        } else {
          std::memset(to, 0, map.item);
        }
      }
    }
  });
}
inline void tma_load_2d(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x,
                        int32_t y) {
  LoadBox(shared, map, barrier, {x, y});
}
inline void tma_load_3d(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x,
                        int32_t y, int32_t z) {
  LoadBox(shared, map, barrier, {x, y, z});
}
inline void tma_load_4d(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x,
                        int32_t y, int32_t z, int32_t w) {
  LoadBox(shared, map, barrier, {x, y, z, w});
}

inline void bulk_copy_g2s(uint32_t shared, const void* global, int bytes, uint32_t barrier) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    emulation::Fail("bulk copy that is not of multiples of 16 bytes");
  }
  const uint32_t size = static_cast<uint32_t>(bytes);
  emulation::CopyLate(shared, size, barrier,
                      [=] { std::memcpy(emulation::Shared(shared, size), global, size); });
}

inline void bulk_prefetch_l2(const void* global, int bytes) {
  volatile char last = static_cast<const char*>(global)[bytes - 1];  // a sanitizer sees overruns
  (void)last;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_TMA_CUH_
