// Words of the language and a thread's place in the grid, as clang's builtins give them.
#ifndef VLLM_KERNELS_ROCM_QUALIFIERS_H_
#define VLLM_KERNELS_ROCM_QUALIFIERS_H_

#include <hip/hip_runtime_api.h>

#undef __noinline__
#undef __forceinline__
#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// CUDA's second number is blocks a multiprocessor, clang's waves a SIMD: only the first is passed
// on.
#define VK_FIRST(first, ...) first
#define __launch_bounds__(...) \
  __attribute__((amdgpu_flat_work_group_size(1, (VK_FIRST(__VA_ARGS__, )))))

namespace vk::rocm {

// Fields that are read as in CUDA and cost nothing until then.
#define VK_FIELD(name, value)                                              \
  struct name##_field {                                                    \
    __device__ __forceinline__ operator unsigned() const { return value; } \
  } name
struct ThreadIndex {
  VK_FIELD(x, __builtin_amdgcn_workitem_id_x());
  VK_FIELD(y, __builtin_amdgcn_workitem_id_y());
  VK_FIELD(z, __builtin_amdgcn_workitem_id_z());
};
struct BlockIndex {
  VK_FIELD(x, __builtin_amdgcn_workgroup_id_x());
  VK_FIELD(y, __builtin_amdgcn_workgroup_id_y());
  VK_FIELD(z, __builtin_amdgcn_workgroup_id_z());
};
struct BlockSize {
  VK_FIELD(x, __builtin_amdgcn_workgroup_size_x());
  VK_FIELD(y, __builtin_amdgcn_workgroup_size_y());
  VK_FIELD(z, __builtin_amdgcn_workgroup_size_z());
};
struct GridSize {
  VK_FIELD(x, __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x());
  VK_FIELD(y, __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y());
  VK_FIELD(z, __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z());
};
#undef VK_FIELD

}  // namespace vk::rocm

static constexpr __device__ vk::rocm::ThreadIndex threadIdx{};
static constexpr __device__ vk::rocm::BlockIndex blockIdx{};
static constexpr __device__ vk::rocm::BlockSize blockDim{};
static constexpr __device__ vk::rocm::GridSize gridDim{};

#endif  // VLLM_KERNELS_ROCM_QUALIFIERS_H_
