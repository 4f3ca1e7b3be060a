// The C ABI of every kernel library: pointers, sizes, strides and dtypes, and nothing of any
// framework. The PyTorch bindings and the ctypes test harness sit on top of it.
#ifndef VLLM_KERNELS_CORE_ABI_H_
#define VLLM_KERNELS_CORE_ABI_H_

#include <stdint.h>

#define VK_EXPORT __attribute__((visibility("default")))
#define VK_MAX_DIMS 6
// Raised when a struct or a signature changes; the loader refuses a library of another version.
#define VK_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vk_dtype {
  VK_F32 = 0,
  VK_BF16 = 1,
  VK_F16 = 2,
  VK_I8 = 3,
  VK_U8 = 4,
  VK_I32 = 5,
  VK_I64 = 6,
  VK_BOOL = 7,
  VK_F64 = 8,
  VK_F8E4M3 = 9,
  VK_F8E8M0 = 10,
} vk_dtype;

// A view of memory that the caller owns. `stride` counts elements, not bytes.
typedef struct vk_tensor {
  void* data;
  int32_t dtype;  // vk_dtype
  int32_t ndim;   // 0..VK_MAX_DIMS
  int64_t shape[VK_MAX_DIMS];
  int64_t stride[VK_MAX_DIMS];
} vk_tensor;

typedef enum vk_status {
  VK_OK = 0,
  VK_INVALID_ARGUMENT = 1,  // dtype, shape, stride, range: the caller's fault
  VK_UNSUPPORTED = 2,       // valid, but this build or this CPU has no kernel for it
  VK_OUT_OF_MEMORY = 3,
  VK_INTERNAL = 4,
} vk_status;

// What the last failing call of this thread said: one sentence, valid until its next call.
VK_EXPORT const char* vk_last_error(void);
VK_EXPORT int32_t vk_abi_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif
#endif  // VLLM_KERNELS_CORE_ABI_H_
