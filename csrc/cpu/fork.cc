// A child that fork() makes has one thread, but libgomp's pool of the thread that forked still
// counts its workers, and the child's first parallel region waits for them for ever; PyTorch's own
// regions too. So that pool is given back before a fork. Parent and child start one of their own
// with their next region, which costs some 50 us a thread. Pools of other threads do not matter:
// those threads do not exist in the child.
#include <omp.h>
#include <pthread.h>

namespace vk {
namespace {

// Fails inside a parallel region, where nothing can be given back; nobody forks there.
void GivePoolBack() { omp_pause_resource_all(omp_pause_soft); }

// At dlclose() libc forgets the handler.
[[maybe_unused]] const int registered = pthread_atfork(GivePoolBack, nullptr, nullptr);

}  // namespace
}  // namespace vk
