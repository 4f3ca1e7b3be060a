// One rank's view of a group of ranks that share memory.
#ifndef VLLM_KERNELS_CPU_ALL_REDUCE_GROUP_H_
#define VLLM_KERNELS_CPU_ALL_REDUCE_GROUP_H_

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cpu/all_reduce/segment.h"

namespace vk::shared {

class Group {
 public:
  Group(const char* name, int64_t ranks, int64_t rank);
  ~Group();
  void Join(const char* name);

  int64_t ranks() const { return static_cast<int64_t>(segments_.size()); }
  int64_t rank() const { return rank_; }
  bool IsOf(const char* name, int64_t rank) const;

  // Puts this rank's tensor before the others, chunk by chunk. When the chunk of every rank is
  // there, calls use(parts, begin, size): parts[r] are bytes [begin, begin + size) of rank r's.
  template <class Use>
  void Exchange(const char* op, const Announcement& announced, const char* mine, const Use& use) {
    const std::lock_guard<std::mutex> one_at_a_time(collectives_);
    RequireJoined(op);
    int64_t begin = 0;
    do {  // once for no bytes: the other ranks may have some
      const int64_t size = std::min(announced.bytes - begin, kChunkBytes);
      Publish(op, announced, mine, begin, size);
      use(parts_.data(), begin, size);
      begin += size;
    } while (begin < announced.bytes);
  }

  void Send(const char* op, int64_t dst,
            const std::vector<std::pair<const void*, int64_t>>& pieces);

  // The bytes of one message, in order.
  class Reader;

 private:
  friend class Reader;
  void RequireJoined(const char* op) const;
  void Publish(const char* op, const Announcement& announced, const char* mine, int64_t begin,
               int64_t size);
  template <class Condition>
  void WaitFor(const char* op, int64_t rank, const Condition& met) const;
  char* TakeMessageSlot(const char* op);
  void PostMessageSlot(int64_t dst, int64_t size);

  std::string prefix_;  // of the files' names
  int64_t rank_;
  std::vector<Segment> segments_;
  bool joined_ = false;

  std::mutex collectives_;
  uint64_t chunks_ = 0;
  std::vector<const void*> parts_;

  std::mutex sends_;
  uint64_t posted_ = 0;
  // What lies in each message slot: for whom, and the how manieth chunk to that rank it is.
  struct {
    int64_t dst = 0;
    uint64_t number = 0;
  } posts_[kSlots];

  std::mutex receives_;
};

// Holds the group's turn to receive until the message is read.
class Group::Reader {
 public:
  Reader(Group& group, const char* op, int64_t src);
  // Copies the next `size` bytes of the message; drops them where `to` is null.
  void Read(void* to, int64_t size);
  // The message ends here.
  void Finish();

 private:
  void Next();
  void Release();

  Group& group_;
  const char* op_;
  int64_t src_;
  std::unique_lock<std::mutex> turn_;
  const char* at_ = nullptr;
  int64_t left_ = 0;
  bool held_ = false;
};

// The group of a handle; throws Error for a number that is none.
std::shared_ptr<Group> GroupOf(const char* op, int64_t handle);
// A new group's handle. It takes the place of this rank's former group of that name.
int64_t MakeGroup(const char* name, int64_t ranks, int64_t rank);

}  // namespace vk::shared
#endif  // VLLM_KERNELS_CPU_ALL_REDUCE_GROUP_H_
