// Preloaded, it says that tensors of the CPU are on a GPU, so that the checks of CUDA ops, which
// come before a kernel starts, can be asked without one. The driver refuses what comes after them.
#include <stdint.h>

int32_t aoti_torch_device_type_cuda(void) { return 0; }
int32_t aoti_torch_create_device_guard(int32_t index, void** guard) {
  (void)index;
  *guard = guard;
  return 0;
}
int32_t aoti_torch_delete_device_guard(void* guard) {
  (void)guard;
  return 0;
}
int32_t aoti_torch_get_current_cuda_stream(int32_t index, void** stream) {
  (void)index;
  *stream = 0;
  return 0;
}
