#include "cpu/attention/run.h"

#include <atomic>
#include <memory>
#include <new>

#include "cpu/parallel.h"

namespace vk {
namespace {

constexpr std::align_val_t kAlignment{64};

// Scratch memory that outlives the call, so that a decode step pays neither for allocating it nor
// for its page faults. It grows to the largest call of its thread.
class Workspace {
 public:
  ~Workspace() { ::operator delete(data_, kAlignment); }

  char* AtLeast(size_t bytes) {
    if (bytes > size_) {
      ::operator delete(data_, kAlignment);
      data_ = nullptr;
      size_ = 0;
      data_ = static_cast<char*>(::operator new(bytes, kAlignment));
      size_ = bytes;
    }
    return data_;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

thread_local Workspace workspace;

class Runner {
 public:
  Runner(const AttentionProblem& problem, const AttentionTable& table, const AttentionPlan& plan,
         int32_t dtype)
      : problem_(problem),
        table_(table),
        plan_(plan),
        dtype_(dtype),
        scratch_bytes_(table.scratch_bytes(problem.head_size, plan.max_rows)),
        partial_floats_(table.partial_floats(problem.head_size, plan.max_rows)),
        pending_(new std::atomic<int32_t>[plan.group_size.size()]) {
    for (size_t i = 0; i < plan.group_size.size(); ++i) pending_[i] = plan.group_size[i];
    const size_t scratch = scratch_bytes_ * plan.threads;
    scratch_ = workspace.AtLeast(scratch + plan.partials * partial_floats_ * sizeof(float));
    partials_ = reinterpret_cast<float*>(scratch_ + scratch);
  }

  // Every thread takes the next task until none is left.
  void Work(int thread) {
    void* scratch = scratch_ + thread * scratch_bytes_;
    const int64_t count = static_cast<int64_t>(plan_.tasks.size());
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) {
      RunTask(plan_.tasks[i], scratch);
    }
  }

 private:
  void RunTask(const AttentionTask& task, void* scratch) {
    const auto attend = table_.attend[dtype_];
    if (task.split_group < 0) {
      attend(problem_, task, scratch, nullptr);
      return;
    }
    attend(problem_, task, scratch, partials_ + task.partial * partial_floats_);
    // Whoever finishes a group's last task merges it: no barrier, no second parallel region.
    if (pending_[task.split_group].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const float* first = partials_ + plan_.group_first[task.split_group] * partial_floats_;
    table_.merge[dtype_](problem_, task,
                         {first, partial_floats_, plan_.group_size[task.split_group]}, scratch);
  }

  const AttentionProblem& problem_;
  const AttentionTable& table_;
  const AttentionPlan& plan_;
  const int32_t dtype_;
  const size_t scratch_bytes_, partial_floats_;
  const std::unique_ptr<std::atomic<int32_t>[]> pending_;  // unfinished tasks of a split group
  std::atomic<int64_t> next_{0};
  char* scratch_;
  float* partials_;
};

}  // namespace

void RunAttention(const AttentionProblem& problem, const AttentionTable& table,
                  const std::vector<AttentionRequest>& requests, int32_t kv_heads, int32_t dtype) {
  const int max_threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  const AttentionPlan plan = MakePlan(problem, table, requests, kv_heads, max_threads);
  Runner runner(problem, table, plan, dtype);
  if (plan.threads == 1) {
    runner.Work(0);
    return;
  }
#pragma omp parallel num_threads(plan.threads)
  runner.Work(omp_get_thread_num());
}

}  // namespace vk
