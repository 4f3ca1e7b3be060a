// One rank's view of a group: addresses, and which buffers peers can read.
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_COMMUNICATOR_H_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_COMMUNICATOR_H_

#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/all_reduce/launch.h"

namespace vk::cuda::all_reduce {

// Makes a GPU current while it lives.
class DeviceScope {
 public:
  DeviceScope(const char* op, int device) {
    CheckCuda(op, "finding the current CUDA device", cudaGetDevice(&before_));
    CheckCuda(op, "choosing the CUDA device", cudaSetDevice(device));
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

class Communicator {
 public:
  Communicator(const int64_t* signals, int ranks, int rank, void* rank_data, int64_t bytes);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int ranks() const { return ranks_; }
  int device() const { return device_; }

  void Register(const char* op, const int64_t* buffers);
  // A problem whose peers read the registered buffer at `address`.
  Problem OfBuffer(const char* op, const void* address) const;
  // The same of an input that a graph captures, or that is registered.
  Problem OfInput(const char* op, const void* address, cudaStream_t stream);

  // The next three are those of all_reduce.h.
  int64_t CapturedCount() const;
  void CapturedHandles(const char* op, int64_t count, uint8_t* handles, int64_t* offsets) const;
  void RegisterCaptured(const char* op, int64_t count, const uint8_t* handles,
                        const int64_t* offsets);

 private:
  Problem Of(const Peers* peers) const;
  Peers* NewSlot(const char* op);
  void* Open(const char* op, const uint8_t* handle);

  struct Captured {
    const void* address;
    Peers* slot;
  };

  int ranks_, rank_, device_ = 0;
  Signals* signals_[kMaxRanks] = {};
  Peers *next_, *end_;  // slots of rank_data
  std::unordered_map<const void*, const Peers*> registered_;
  std::vector<Captured> captured_;
  std::map<std::string, void*> opened_;  // by handle
  mutable std::mutex mutex_;
};

// Communicators that live, by their address. Throws where `address` is none.
Communicator& Find(const char* op, int64_t address);
int64_t Keep(Communicator* made);
void Dispose(const char* op, int64_t address);

}  // namespace vk::cuda::all_reduce
#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_COMMUNICATOR_H_
