// What C++ code and glibc's macros make of a C library: each of these has a newer form that an old
// node lacks. test_floor.py compiles it for every standard, links it and runs it.

#include <bits/stdc++.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using std::chrono::milliseconds;

// Clock waits: pthread_cond_clockwait and its like are of glibc 2.30.
void Wait() {
  std::mutex mutex;
  std::unique_lock<std::mutex> lock(mutex);
  std::condition_variable condition;
  condition.wait_for(lock, milliseconds(1));
  std::condition_variable_any any;
  any.wait_for(lock, milliseconds(1));
  std::timed_mutex timed;
  std::shared_timed_mutex shared;
  std::recursive_timed_mutex recursive;
  if (!timed.try_lock_for(milliseconds(1)) || !shared.try_lock_shared_for(milliseconds(1)) ||
      !recursive.try_lock_until(std::chrono::steady_clock::now())) {
    std::abort();
  }
  timed.unlock();
  shared.unlock_shared();
  recursive.unlock();
}

// Threads are of the C library itself since 2.34, and shared_ptr asks for __libc_single_threaded.
int Threads() {
  auto three = std::make_shared<int>(3);
  const int got = std::async(std::launch::async, [=] { return *three; }).get();
  std::thread([] {}).join();
  std::once_flag once;
  std::call_once(once, [] {});
  return got;
}

// stat is a function since 2.33, strtol has a C23 form since 2.38, exp and pow a version of 2.29.
std::string Functions(double three) {
  struct stat found{};
  if (stat("/", &found) != 0 || fstat(0, &found) < -1) std::abort();
  long sum = std::strtol("12", nullptr, 10) + std::atoi("3") + (long)std::pow(2., three) +
             (long)std::exp(three) + (long)std::log(three) + (long)expf((float)three);
  if (std::sscanf("4", "%ld", &sum) != 1) std::abort();
  // Numbers, not calls of sysconf, before 2.34.
  static char stack[PTHREAD_STACK_MIN + SIGSTKSZ];
  std::ostringstream text;
  text << sum << sizeof stack << std::regex_match("a", std::regex("a")) << std::random_device{}();
  text << std::filesystem::temp_directory_path().string();
  std::atexit([] {});
  std::at_quick_exit([] {});
  pthread_atfork(nullptr, nullptr, nullptr);
  try {
    throw std::runtime_error(text.str());
  } catch (const std::exception& error) {
    return error.what();
  }
}

#if __cplusplus >= 202002L
void Standard20() {
  std::counting_semaphore<3> semaphore(1);
  if (!semaphore.try_acquire_for(milliseconds(1))) std::abort();
  std::latch latch(1);
  latch.count_down();
  std::barrier barrier(1);
  barrier.arrive_and_wait();
  std::atomic<int> number = 1;
  number.notify_all();
  std::jthread thread([] {});
}
#else
void Standard20() {}
#endif

}  // namespace

int main() {
  Wait();
  Standard20();
  const int three = Threads();
  std::printf("%d %d %zu\n", three, __GLIBC_MINOR__, Functions(three).size());
}
