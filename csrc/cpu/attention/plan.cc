#include "cpu/attention/plan.h"

#include <algorithm>
#include <utility>

#include "cpu/round.h"

namespace vk {
namespace {

// Below this, a second thread costs more (waking, sharing) than it saves. In units of Cost.
constexpr int64_t kCostPerThread = int64_t{1} << 19;
// Tasks for each thread, enough to even out errors of the cost model.
constexpr int64_t kTasksPerThread = 3;
// Merging the partial result of a shorter range costs more than splitting saves.
constexpr int32_t kMinSplitKeys = 256;
// A tile of few rows takes the time of reading its keys and values, however many rows it has.
constexpr int32_t kFreeRows = 8;
// Copying keys for a tile pays with more rows from so many keys on, where a batch still has so many
// tiles for each thread.
constexpr int32_t kLongKeys = 1024, kLongTilesPerThread = 8;
// The head size up to which such a tile stays in the L2 cache.
constexpr int32_t kLongHead = 128;

int64_t Cost(const AttentionProblem& problem, const AttentionTask& task) {
  const int64_t rows = std::max(task.tokens * problem.group, kFreeRows);
  return rows * std::max(task.key_end - task.key_begin, 16) * problem.head_size;
}

class Planner {
 public:
  Planner(const AttentionProblem& problem, const AttentionTable& table)
      : problem_(problem), table_(table) {}

  AttentionPlan Make(const std::vector<AttentionRequest>& requests, int32_t kv_heads,
                     int max_threads) {
    const bool enough = LongTiles(requests) * kv_heads >= kLongTilesPerThread * max_threads;
    int64_t total = 0;
    for (const AttentionRequest& request : requests) {
      total +=
          AddTiles(request, enough && HasManyKeys(request) ? std::max(table_.tile_rows, LongRows())
                                                           : table_.tile_rows);
    }
    total *= kv_heads;
    plan_.threads = static_cast<int>(std::clamp<int64_t>(total / kCostPerThread, 1, max_threads));
    const int64_t limit = plan_.threads == 1 ? total : total / (plan_.threads * kTasksPerThread);
    plan_.tasks.reserve(tiles_.size() * kv_heads);
    // Two passes instead of a sort: tasks that fill a good part of a thread's share must not come
    // last.
    for (const bool costly : {true, false}) {
      for (const AttentionTask& tile : tiles_) {
        const int64_t cost = Cost(problem_, tile);
        if ((2 * cost > limit) != costly) continue;
        for (int32_t head = 0; head < kv_heads; ++head) AddTask(tile, head, cost, limit);
      }
    }
    std::vector<AttentionTask>& tasks = plan_.tasks;
    plan_.threads = std::min<int>(plan_.threads, std::max<size_t>(1, tasks.size()));
    // The other threads take those between.
    for (size_t i = plan_.threads; i < tasks.size(); ++i) tasks[i - plan_.threads].next = &tasks[i];
    return std::move(plan_);
  }

 private:
  int32_t LongRows() const {
    return table_.long_tile_rows * kLongHead / std::max(problem_.head_size, kLongHead);
  }
  bool HasManyKeys(const AttentionRequest& request) const {
    return std::min(request.seq_len, problem_.window) >= kLongKeys;
  }
  // Whole ones of one key/value head that the requests with many keys would make.
  int64_t LongTiles(const std::vector<AttentionRequest>& requests) const {
    int64_t tiles = 0;
    for (const AttentionRequest& request : requests) {
      if (HasManyKeys(request)) tiles += int64_t{request.tokens} * problem_.group / LongRows();
    }
    return tiles;
  }

  // The request's query tiles, last tokens first: under a causal mask they see most keys.
  int64_t AddTiles(const AttentionRequest& request, int32_t tile_rows) {
    const int32_t tile_tokens = std::max(1, tile_rows / problem_.group);
    int64_t cost = 0;
    for (int32_t last = request.tokens; last > 0; last -= tile_tokens) {
      const int32_t first = std::max(0, last - tile_tokens);
      AttentionTask task{};
      task.blocks = request.blocks;
      task.first_token = request.first_token + first;
      task.tokens = last - first;
      task.first_position = request.seq_len - request.tokens + first;
      task.seq_len = request.seq_len;
      task.causal = request.causal;
      task.split_group = -1;
      const KeyRange keys = VisibleKeys(request, task.first_position,
                                        task.first_position + task.tokens - 1, problem_.window);
      task.key_begin = keys.begin;
      task.key_end = keys.end;
      plan_.max_rows = std::max(plan_.max_rows, task.tokens * problem_.group);
      cost += Cost(problem_, task);
      tiles_.push_back(task);
    }
    return cost;
  }

  void AddTask(AttentionTask task, int32_t kv_head, int64_t cost, int64_t limit) {
    task.kv_head = kv_head;
    const int32_t keys = task.key_end - task.key_begin;
    const int64_t pieces =
        std::min<int64_t>((cost + limit - 1) / std::max<int64_t>(limit, 1), keys / kMinSplitKeys);
    if (pieces <= 1) {
      plan_.tasks.push_back(task);
      return;
    }
    const int32_t multiple = table_.key_multiple;
    const int32_t share = static_cast<int32_t>(RoundUp(keys / pieces, multiple));
    const int32_t end = task.key_end;
    task.split_group = static_cast<int32_t>(plan_.group_first.size());
    plan_.group_first.push_back(plan_.partials);
    int64_t begin = task.key_begin / multiple * multiple;
    for (; begin < end; begin += share) {
      task.key_begin = static_cast<int32_t>(begin);
      task.key_end = static_cast<int32_t>(std::min<int64_t>(end, begin + share));
      task.partial = plan_.partials++;
      plan_.tasks.push_back(task);
    }
    plan_.group_size.push_back(plan_.partials - plan_.group_first.back());
  }

  const AttentionProblem& problem_;
  const AttentionTable& table_;
  std::vector<AttentionTask> tiles_;  // of one key/value head, unsplit
  AttentionPlan plan_;
};

}  // namespace

KeyRange VisibleKeys(const AttentionRequest& request, int32_t first, int32_t last, int32_t window) {
  KeyRange keys{std::max(0, first - window + 1), request.seq_len};
  if (request.causal) keys.end = last + 1;
  if (window < request.seq_len - last) keys.end = std::min(keys.end, last + window);
  return keys;
}

AttentionPlan MakePlan(const AttentionProblem& problem, const AttentionTable& table,
                       const std::vector<AttentionRequest>& requests, int32_t kv_heads,
                       int max_threads) {
  return Planner(problem, table).Make(requests, kv_heads, max_threads);
}

}  // namespace vk
