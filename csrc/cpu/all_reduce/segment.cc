#include "cpu/all_reduce/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "core/status.h"
#include "cpu/round.h"

namespace vk::shared {
namespace {

constexpr uint64_t kLayout = 0x766b'7368'6d00'0001;  // raised when Counters or the slots change
constexpr int64_t kPage = 4096;
constexpr int64_t kCounterBytes = CeilDiv(int64_t{sizeof(Counters)}, kPage) * kPage;
constexpr int64_t kBytes = kCounterBytes + 2 * kSlots * kChunkBytes;
static_assert(kBytes < int64_t{5} << 20, "shared_memory.h says how much it is");

// An open file that is closed unless it is kept.
class File {
 public:
  explicit File(int number) : number_(number) {}
  File(const File&) = delete;
  ~File() {
    if (number_ >= 0) close(number_);
  }
  int number() const { return number_; }
  int Keep() { return std::exchange(number_, -1); }

 private:
  int number_;
};

// Locks of open files, not of processes: a child that is forked may close its copy, and ranks may
// be threads of one process.
#if defined(F_OFD_SETLK)
struct flock WholeFile() {
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return whole;
}

bool Lock(int file) {
  struct flock whole = WholeFile();
  return fcntl(file, F_OFD_SETLK, &whole) == 0;
}

enum class Owner { kThere, kGone, kUnknown };
Owner OwnerOf(int file) {
  struct flock whole = WholeFile();
  if (fcntl(file, F_OFD_GETLK, &whole) != 0) return Owner::kUnknown;
  return whole.l_type == F_UNLCK ? Owner::kGone : Owner::kThere;
}
#else
#error "the platform has no locks of open files (F_OFD_SETLK)"
#endif

// A name in /dev/shm, removed again unless it is kept.
class NewName {
 public:
  explicit NewName(const char* name) : name_(name) {}
  NewName(const NewName&) = delete;
  ~NewName() {
    if (name_ != nullptr) shm_unlink(name_);
  }
  void Keep() { name_ = nullptr; }

 private:
  const char* name_;
};

constexpr const char* kInit = "init_shm_manager";
constexpr const char* kJoin = "join_shm_manager";

int OpenNew(const std::string& name) {
  const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
  int file = shm_open(name.c_str(), flags, 0600);
  if (file >= 0 || errno != EEXIST) return file;
  const File old(shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0));
  if (old.number() >= 0 && OwnerOf(old.number()) == Owner::kThere) {
    Fail(VK_INVALID_ARGUMENT,
         "%s: another process has made /dev/shm%s and still runs; give the group another name, or "
         "end that process",
         kInit, name.c_str());
  }
  shm_unlink(name.c_str());
  return shm_open(name.c_str(), flags, 0600);
}

void* Map(const char* op, int file) {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) {
    Fail(VK_OUT_OF_MEMORY, "%s: %lld MiB of shared memory cannot be mapped: %s", op,
         Print(kBytes >> 20), std::strerror(errno));
  }
  return memory;
}

}  // namespace

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(memory_, other.memory_);
  return *this;
}

Segment::~Segment() {
  if (memory_ != nullptr) munmap(memory_, kBytes);
  if (file_ >= 0) close(file_);
}

Segment Segment::Create(const std::string& name, int64_t ranks) {
  File file(OpenNew(name));
  if (file.number() < 0) {
    Fail(VK_INVALID_ARGUMENT, "%s: /dev/shm%s cannot be made: %s", kInit, name.c_str(),
         std::strerror(errno));
  }
  NewName made_name(name.c_str());
  // The pages are taken now: a write to one that the file system cannot give ends the process.
  if (const int error = posix_fallocate(file.number(), 0, kBytes); error != 0) {
    Fail(VK_OUT_OF_MEMORY,
         "%s: /dev/shm cannot give %lld MiB to this rank: %s; give it more room (`docker run "
         "--shm-size=1g`, or `--ipc=host`)",
         kInit, Print(kBytes >> 20), std::strerror(error));
  }
  Lock(file.number());
  Segment made(-1, Map(kInit, file.number()));
  made.file_ = file.Keep();
  made_name.Keep();
  auto* counters = new (made.memory_) Counters{};
  counters->ranks = ranks;
  counters->layout = kLayout;
  return made;
}

Segment Segment::Open(const std::string& name, int64_t ranks, int64_t rank) {
  File file(shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0));
  struct stat found = {};
  if (file.number() < 0 || fstat(file.number(), &found) != 0) {
    Fail(VK_INVALID_ARGUMENT,
         "%s: rank %lld has not called init_shm_manager with that name (/dev/shm%s: %s)", kJoin,
         Print(rank), name.c_str(), std::strerror(errno));
  }
  const auto check_version = [rank](bool same) {
    VK_CHECK(same, "%s: rank %lld runs another version of these kernels", kJoin, Print(rank));
  };
  check_version(found.st_size == kBytes);
  Segment opened(-1, Map(kJoin, file.number()));
  opened.file_ = file.Keep();
  const Counters& counters = opened.counters();
  check_version(counters.layout == kLayout);
  VK_CHECK(counters.ranks == ranks, "%s: rank %lld has a group of %lld ranks, this one of %lld",
           kJoin, Print(rank), Print(counters.ranks), Print(ranks));
  return opened;
}

void Segment::Remove(const std::string& name) { shm_unlink(name.c_str()); }

bool Segment::HasOwner() const { return OwnerOf(file_) != Owner::kGone; }

char* Segment::Chunk(uint64_t index) const {
  return static_cast<char*>(memory_) + kCounterBytes + static_cast<int64_t>(index) * kChunkBytes;
}

}  // namespace vk::shared
