#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "core/status.h"
#include "cpu/gemm/gemm_weights.h"

namespace vk {
namespace {

// Numbers count up and are never reused, so a stale handle can never name newer weights.
struct HandleTable {
  std::shared_mutex mutex;
  std::unordered_map<int64_t, std::shared_ptr<const GemmWeights>> weights;
  int64_t last = 0;
};

// Never destroyed: a thread may still release handles while the process exits.
HandleTable& Table() {
  static HandleTable* table = new HandleTable;
  return *table;
}

[[noreturn]] void FailUnknown(const char* op, int64_t handle, int64_t last) {
  if (handle > 0 && handle <= last) {
    Fail(VK_INVALID_ARGUMENT, "%s: handle %lld was released; create a new one from the weights", op,
         static_cast<long long>(handle));
  }
  Fail(VK_INVALID_ARGUMENT,
       "%s: handle %lld is none of those that create_onednn_mm_handler or "
       "create_onednn_scaled_mm_handler returned in this process",
       op, static_cast<long long>(handle));
}

}  // namespace

int64_t AddGemmHandle(std::unique_ptr<GemmWeights> weights) {
  HandleTable& table = Table();
  std::shared_ptr<const GemmWeights> shared = std::move(weights);
  const std::unique_lock lock(table.mutex);
  const int64_t handle = table.last + 1;
  table.weights.emplace(handle, std::move(shared));
  table.last = handle;
  return handle;
}

std::shared_ptr<const GemmWeights> FindGemmHandle(const char* op, int64_t handle) {
  HandleTable& table = Table();
  const std::shared_lock lock(table.mutex);
  const auto found = table.weights.find(handle);
  if (found == table.weights.end()) FailUnknown(op, handle, table.last);
  return found->second;
}

void RemoveGemmHandle(const char* op, int64_t handle) {
  HandleTable& table = Table();
  std::shared_ptr<const GemmWeights> removed;  // freed after the lock is
  const std::unique_lock lock(table.mutex);
  const auto found = table.weights.find(handle);
  if (found == table.weights.end()) FailUnknown(op, handle, table.last);
  removed = std::move(found->second);
  table.weights.erase(found);
}

}  // namespace vk
