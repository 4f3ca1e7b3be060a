#include "cuda/all_reduce/communicator.h"

#include <cuda.h>
#include <cudaTypedefs.h>

#include <memory>

#include "core/check.h"
#include "cuda/all_reduce/all_reduce.h"
#include "cuda/common/driver.h"

namespace vk::cuda::all_reduce {
namespace {

static_assert(sizeof(cudaIpcMemHandle_t) == VK_CUDA_IPC_HANDLE_BYTES);

// Where the allocation starts that `address` lies in.
char* AllocationOf(const char* op, const void* address) {
  static const auto attribute =
      FindDriverFunction<PFN_cuPointerGetAttribute_v4000>(op, "cuPointerGetAttribute", 4000);
  CUdeviceptr start = 0;
  const CUresult result = attribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                    reinterpret_cast<CUdeviceptr>(address));
  if (result != CUDA_SUCCESS) {
    Fail(VK_INTERNAL, "%s: the driver does not know a captured input's memory (error %d)", op,
         static_cast<int>(result));
  }
  return reinterpret_cast<char*>(start);
}

struct Living {
  std::mutex mutex;
  std::map<int64_t, std::unique_ptr<Communicator>> all;
};
// Never destroyed: at the end of the process CUDA may be gone before it.
Living& AllLiving() {
  static Living& living = *new Living;
  return living;
}

}  // namespace

Communicator::Communicator(const int64_t* signals, int ranks, int rank, void* rank_data,
                           int64_t bytes)
    : ranks_(ranks), rank_(rank) {
  CheckCuda("init_custom_ar", "finding the current CUDA device", cudaGetDevice(&device_));
  for (int i = 0; i < ranks; ++i) signals_[i] = reinterpret_cast<Signals*>(signals[i]);
  next_ = static_cast<Peers*>(rank_data);
  end_ = next_ + bytes / static_cast<int64_t>(sizeof(Peers));
}

Communicator::~Communicator() {
  for (const auto& [handle, address] : opened_) cudaIpcCloseMemHandle(address);
  cudaGetLastError();  // the process may be ending
}

Peers* Communicator::NewSlot(const char* op) {
  VK_CHECK(next_ < end_, "%s: rank_data has no room for another buffer's addresses", op);
  return next_++;
}

Problem Communicator::Of(const Peers* peers) const {
  Problem problem{};
  for (int i = 0; i < ranks_; ++i) problem.signals[i] = signals_[i];
  problem.peers = peers;
  problem.rank = rank_;
  return problem;
}

void Communicator::Register(const char* op, const int64_t* buffers) {
  const std::scoped_lock lock(mutex_);
  Peers peers{};
  for (int i = 0; i < ranks_; ++i) peers.data[i] = reinterpret_cast<void*>(buffers[i]);
  Peers* slot = NewSlot(op);
  CheckCuda(op, "copying addresses to the GPU",
            cudaMemcpy(slot, &peers, sizeof(peers), cudaMemcpyHostToDevice));
  registered_[peers.data[rank_]] = slot;
}

Problem Communicator::OfBuffer(const char* op, const void* address) const {
  const std::scoped_lock lock(mutex_);
  const auto found = registered_.find(address);
  VK_CHECK(found != registered_.end(), "%s: reg_buffer is no registered buffer's address", op);
  return Of(found->second);
}

Problem Communicator::OfInput(const char* op, const void* address, cudaStream_t stream) {
  const std::scoped_lock lock(mutex_);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CheckCuda(op, "asking whether a graph is captured", cudaStreamIsCapturing(stream, &status));
  if (status == cudaStreamCaptureStatusActive) {
    Peers* slot = NewSlot(op);
    captured_.push_back({address, slot});
    return Of(slot);
  }
  const auto found = registered_.find(address);
  VK_CHECK(found != registered_.end(),
           "%s: inp is not registered and no graph is captured: pass the address of a registered "
           "buffer as reg_buffer",
           op);
  return Of(found->second);
}

int64_t Communicator::CapturedCount() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<int64_t>(captured_.size());
}

void Communicator::CapturedHandles(const char* op, int64_t count, uint8_t* handles,
                                   int64_t* offsets) const {
  const std::scoped_lock lock(mutex_);
  VK_CHECK(count == static_cast<int64_t>(captured_.size()), "%s: a graph is being captured", op);
  for (const Captured& one : captured_) {
    char* const start = AllocationOf(op, one.address);
    const cudaError_t error =
        cudaIpcGetMemHandle(reinterpret_cast<cudaIpcMemHandle_t*>(handles), start);
    if (error != cudaSuccess) cudaGetLastError();  // else the next launch would report it
    VK_CHECK(error == cudaSuccess,
             "%s: a captured input lies in memory that other processes cannot open (%s); PyTorch's "
             "expandable segments are such memory: leave them off (PYTORCH_CUDA_ALLOC_CONF), or "
             "start the engine with --disable-custom-all-reduce",
             op, cudaGetErrorString(error));
    handles += VK_CUDA_IPC_HANDLE_BYTES;
    *offsets++ = static_cast<const char*>(one.address) - start;
  }
}

// Inputs of one graph mostly lie in few allocations; CUDA opens each once a process.
void* Communicator::Open(const char* op, const uint8_t* handle) {
  const std::string key(reinterpret_cast<const char*>(handle), VK_CUDA_IPC_HANDLE_BYTES);
  void*& address = opened_[key];
  if (address == nullptr) {
    cudaIpcMemHandle_t given;
    std::copy_n(key.data(), key.size(), reinterpret_cast<char*>(&given));
    CheckCuda(op, "opening another rank's memory",
              cudaIpcOpenMemHandle(&address, given, cudaIpcMemLazyEnablePeerAccess));
  }
  return address;
}

void Communicator::RegisterCaptured(const char* op, int64_t count, const uint8_t* handles,
                                    const int64_t* offsets) {
  const std::scoped_lock lock(mutex_);
  VK_CHECK(count == static_cast<int64_t>(captured_.size()),
           "%s: addresses of %lld inputs, want those of the %zu that were captured", op,
           static_cast<long long>(count), captured_.size());
  for (int64_t i = 0; i < count; ++i) {
    const Captured& one = captured_[static_cast<size_t>(i)];
    Peers peers{};
    for (int rank = 0; rank < ranks_; ++rank) {
      const int64_t place = rank * count + i;
      peers.data[rank] =
          rank == rank_ ? const_cast<void*>(one.address)
                        : static_cast<char*>(Open(op, handles + place * VK_CUDA_IPC_HANDLE_BYTES)) +
                              offsets[place];
    }
    CheckCuda(op, "copying addresses to the GPU",
              cudaMemcpy(one.slot, &peers, sizeof(peers), cudaMemcpyHostToDevice));
  }
  captured_.clear();
}

Communicator& Find(const char* op, int64_t address) {
  Living& living = AllLiving();
  const std::scoped_lock lock(living.mutex);
  const auto found = living.all.find(address);
  VK_CHECK(found != living.all.end(), "%s: fa is no communicator that init_custom_ar has made", op);
  return *found->second;
}

int64_t Keep(Communicator* made) {
  Living& living = AllLiving();
  const std::scoped_lock lock(living.mutex);
  const int64_t address = reinterpret_cast<int64_t>(made);
  living.all[address].reset(made);
  return address;
}

void Dispose(const char* op, int64_t address) {
  Living& living = AllLiving();
  std::unique_ptr<Communicator> gone;
  {
    const std::scoped_lock lock(living.mutex);
    const auto found = living.all.find(address);
    VK_CHECK(found != living.all.end(), "%s: fa is no communicator that init_custom_ar has made",
             op);
    gone = std::move(found->second);
    living.all.erase(found);
  }
  const DeviceScope scope(op, gone->device());
  gone.reset();
}

}  // namespace vk::cuda::all_reduce
