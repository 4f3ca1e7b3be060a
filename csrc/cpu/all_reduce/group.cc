#include "cpu/all_reduce/group.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <iterator>
#include <map>
#include <thread>

#include "core/status.h"
#include "cpu/parallel.h"

namespace vk::shared {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Ranks that work in step come within microseconds; one that comes later than the second of these
// may as well be waited for asleep.
constexpr int kLooks = 256;
constexpr auto kAwake = 2ms;
constexpr auto kNap = 50us;
constexpr auto kBetweenChecks = 100ms;

std::string FileOf(const std::string& prefix, int64_t rank) {
  return prefix + std::to_string(rank);
}

// Files of other users cannot be replaced, so the name says whose they are.
std::string PrefixOf(const char* name) {
  std::string plain = name;
  std::replace(plain.begin(), plain.end(), '/', '_');  // the name is one of a file, not of a path
  return "/vllm-kernels." + std::to_string(getuid()) + "." + plain + ".";
}

void Copy(char* to, const char* from, int64_t bytes) {
  ParallelFor(bytes, GrainFor(2), [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

struct Groups {
  std::mutex guard;
  std::map<int64_t, std::shared_ptr<Group>> all;  // by handle
  int64_t made = 0;
};

Groups& AllGroups() {
  // Never destroyed: other threads may still be in a call when the process ends.
  static Groups& groups = *new Groups;
  return groups;
}

}  // namespace

std::shared_ptr<Group> GroupOf(const char* op, int64_t handle) {
  Groups& groups = AllGroups();
  const std::lock_guard<std::mutex> held(groups.guard);
  const auto found = groups.all.find(handle);
  VK_CHECK(found != groups.all.end(),
           "%s: handle is %lld, want one that init_shm_manager of this process gave", op,
           Print(handle));
  return found->second;
}

int64_t MakeGroup(const char* name, int64_t ranks, int64_t rank) {
  Groups& groups = AllGroups();
  const std::lock_guard<std::mutex> held(groups.guard);
  for (auto at = groups.all.begin(); at != groups.all.end();) {
    at = at->second->IsOf(name, rank) ? groups.all.erase(at) : std::next(at);
  }
  groups.all.emplace(groups.made + 1, std::make_shared<Group>(name, ranks, rank));
  return ++groups.made;
}

Group::Group(const char* name, int64_t ranks, int64_t rank)
    : prefix_(PrefixOf(name)), rank_(rank), parts_(static_cast<size_t>(ranks)) {
  segments_.resize(static_cast<size_t>(ranks));
  segments_[rank] = Segment::Create(FileOf(prefix_, rank), ranks);
}

// Once it has joined, the names are the last rank's to remove.
Group::~Group() {
  if (!joined_) Segment::Remove(FileOf(prefix_, rank_));
}

bool Group::IsOf(const char* name, int64_t rank) const {
  return rank_ == rank && prefix_ == PrefixOf(name);
}

void Group::Join(const char* name) {
  const char* op = "join_shm_manager";
  const std::lock_guard<std::mutex> one_at_a_time(collectives_);
  VK_CHECK(PrefixOf(name) == prefix_, "%s: name is `%s`, want the name that the handle was made of",
           op, name);
  VK_CHECK(!joined_, "%s: this rank has joined its group before", op);
  for (int64_t rank = 0; rank < ranks(); ++rank) {
    Segment& segment = segments_[rank];
    if (!segment.mapped()) segment = Segment::Open(FileOf(prefix_, rank), ranks(), rank);
  }
  joined_ = true;
  if (segments_[0].counters().joined.fetch_add(1) + 1 != static_cast<uint64_t>(ranks())) return;
  for (int64_t rank = 0; rank < ranks(); ++rank) Segment::Remove(FileOf(prefix_, rank));
}

void Group::RequireJoined(const char* op) const {
  VK_CHECK(joined_, "%s: this rank has not joined its group; call join_shm_manager first", op);
}

template <class Condition>
void Group::WaitFor(const char* op, int64_t rank, const Condition& met) const {
  for (int look = 0; look < kLooks; ++look) {
    if (met()) return;
  }
  const auto start = Clock::now();
  for (auto check = start + kBetweenChecks; !met();) {
    const auto now = Clock::now();
    if (now - start < kAwake) {
      sched_yield();
      continue;
    }
    if (now >= check) {
      // Looked at once more: its last act may have been what is waited for.
      if (!segments_[rank].HasOwner() && !met()) {
        Fail(VK_INTERNAL, "%s: the process of rank %lld has ended; its own log says why", op,
             Print(rank));
      }
      check = now + kBetweenChecks;
    }
    std::this_thread::sleep_for(kNap);
  }
}

// Two slots are enough. A rank fills a slot again two chunks later, and has by then seen every
// rank's next chunk, which each publishes after it has used the one before.
void Group::Publish(const char* op, const Announcement& announced, const char* mine, int64_t begin,
                    int64_t size) {
  const uint64_t chunk = chunks_++;
  const Segment& own = segments_[rank_];
  own.counters().announced[chunk % kSlots] = announced;
  Copy(own.CollectiveSlot(chunk), mine + begin, size);
  own.counters().written.store(chunk + 1, std::memory_order_release);
  for (int64_t rank = 0; rank < ranks(); ++rank) {
    const Counter& written = segments_[rank].counters().written;
    WaitFor(op, rank, [&] { return written.load(std::memory_order_acquire) > chunk; });
    parts_[rank] = segments_[rank].CollectiveSlot(chunk);
  }
  for (int64_t rank = 0; rank < ranks(); ++rank) {
    const Announcement& theirs = segments_[rank].counters().announced[chunk % kSlots];
    VK_CHECK(theirs == announced,
             "%s: rank %lld makes another call than rank %lld: %lld bytes of dtype %lld in "
             "collective %lld, and %lld bytes of dtype %lld in collective %lld",
             op, Print(rank), Print(rank_), Print(theirs.bytes), Print(theirs.dtype),
             Print(theirs.op), Print(announced.bytes), Print(announced.dtype), Print(announced.op));
  }
}

char* Group::TakeMessageSlot(const char* op) {
  const auto& last = posts_[posted_ % kSlots];
  if (last.number > 0) {
    const Counter& received = segments_[last.dst].counters().received[rank_];
    WaitFor(op, last.dst, [&] { return received.load(std::memory_order_acquire) >= last.number; });
  }
  return segments_[rank_].MessageSlot(posted_ % kSlots);
}

void Group::PostMessageSlot(int64_t dst, int64_t size) {
  Counters& own = segments_[rank_].counters();
  const uint64_t number = own.sent[dst].load(std::memory_order_relaxed);
  const int64_t slot = static_cast<int64_t>(posted_++ % kSlots);
  own.message_bytes[slot] = size;
  own.slot_of[dst][number % kSlots] = slot;
  posts_[slot].dst = dst;
  posts_[slot].number = number + 1;
  own.sent[dst].store(number + 1, std::memory_order_release);
}

void Group::Send(const char* op, int64_t dst,
                 const std::vector<std::pair<const void*, int64_t>>& pieces) {
  const std::lock_guard<std::mutex> one_at_a_time(sends_);
  RequireJoined(op);
  char* slot = TakeMessageSlot(op);
  int64_t filled = 0;
  for (auto [from, left] : pieces) {
    const char* at = static_cast<const char*>(from);
    while (left > 0) {
      if (filled == kChunkBytes) {
        PostMessageSlot(dst, filled);
        slot = TakeMessageSlot(op);
        filled = 0;
      }
      const int64_t size = std::min(left, kChunkBytes - filled);
      Copy(slot + filled, at, size);
      filled += size;
      at += size;
      left -= size;
    }
  }
  PostMessageSlot(dst, filled);
}

Group::Reader::Reader(Group& group, const char* op, int64_t src)
    : group_(group), op_(op), src_(src), turn_(group.receives_) {
  group.RequireJoined(op);
}

void Group::Reader::Read(void* to, int64_t size) {
  char* out = static_cast<char*>(to);
  while (size > 0) {
    if (left_ == 0) Next();
    const int64_t part = std::min(size, left_);
    if (out != nullptr) {
      Copy(out, at_, part);
      out += part;
    }
    at_ += part;
    left_ -= part;
    size -= part;
  }
}

void Group::Reader::Finish() { Release(); }

void Group::Reader::Next() {
  Release();
  const Counters& theirs = group_.segments_[src_].counters();
  const uint64_t number =
      group_.segments_[group_.rank_].counters().received[src_].load(std::memory_order_relaxed);
  const Counter& sent = theirs.sent[group_.rank_];
  group_.WaitFor(op_, src_, [&] { return sent.load(std::memory_order_acquire) > number; });
  const int64_t slot = theirs.slot_of[group_.rank_][number % kSlots];
  at_ = group_.segments_[src_].MessageSlot(static_cast<uint64_t>(slot));
  left_ = theirs.message_bytes[slot];
  held_ = true;
}

void Group::Reader::Release() {
  if (!held_) return;
  held_ = false;
  group_.segments_[group_.rank_].counters().received[src_].fetch_add(1, std::memory_order_release);
}

}  // namespace vk::shared
