// The memory that one rank of a group shares with the others: counters, and room for parts.
//
// Every counter but `joined` has one writer. A reader that sees it grow (acquire) sees what was
// written before (release).
#ifndef VLLM_KERNELS_CPU_ALL_REDUCE_SEGMENT_H_
#define VLLM_KERNELS_CPU_ALL_REDUCE_SEGMENT_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace vk::shared {

constexpr int64_t kMostRanks = 64;
// Long enough that waiting for each other costs little beside the copies, short enough that four of
// them a rank are little of the 64 MiB that containers have by default.
constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int64_t kSlots = 2;

using Counter = std::atomic<uint64_t>;
static_assert(Counter::is_always_lock_free, "a lock would be another process's");

// What a rank has put into a slot for everyone: parts of unlike calls are not to be combined.
struct Announcement {
  int64_t op;
  int64_t dtype;
  int64_t bytes;  // of the whole tensor

  bool operator==(const Announcement& other) const {
    return op == other.op && dtype == other.dtype && bytes == other.bytes;
  }
};

struct Counters {
  uint64_t layout;
  int64_t ranks;
  // Ranks that have mapped all segments; in rank 0's segment.
  alignas(64) Counter joined;
  // Chunks of collectives that lie or have lain in the slots.
  alignas(64) Counter written;
  Announcement announced[kSlots];
  // Chunks of messages to and from each rank; where the last two to each lie, and their sizes.
  alignas(64) Counter sent[kMostRanks];
  alignas(64) Counter received[kMostRanks];
  int64_t slot_of[kMostRanks][kSlots];
  int64_t message_bytes[kSlots];
};

// A mapped segment. Its owner holds a lock on the file for as long as its process lives.
class Segment {
 public:
  Segment() = default;
  Segment(Segment&& other) noexcept { *this = std::move(other); }
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  // Makes the segment of a rank. One that a process left behind under the name is replaced.
  static Segment Create(const std::string& file, int64_t ranks);
  // Maps another rank's; throws Error where that rank has made none, or for another group size.
  static Segment Open(const std::string& file, int64_t ranks, int64_t rank);
  static void Remove(const std::string& file);

  bool mapped() const { return memory_ != nullptr; }
  // False once the process that made it has ended; true where the system cannot tell.
  bool HasOwner() const;

  Counters& counters() const { return *static_cast<Counters*>(memory_); }
  char* CollectiveSlot(uint64_t chunk) const { return Chunk(chunk % kSlots); }
  char* MessageSlot(uint64_t slot) const { return Chunk(kSlots + slot); }

 private:
  Segment(int file, void* memory) : file_(file), memory_(memory) {}
  char* Chunk(uint64_t index) const;

  int file_ = -1;
  void* memory_ = nullptr;
};

}  // namespace vk::shared
#endif  // VLLM_KERNELS_CPU_ALL_REDUCE_SEGMENT_H_
