// The sort of few entries by expert on an emulated GPU, against a stable sort.
// moe_routing_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "cuda/moe_routing/launch.h"  // before device.h, which gives gridDim another meaning

#include "device.h"
#include "seeded.h"

#include "cuda/moe_routing/sort_by_expert.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda11moe_routing16by_expert_sharedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda::moe_routing;

constexpr int kPoison = -77, kMargin = 8;

// Numbers with a margin that must stay as it is.
struct Numbers {
  explicit Numbers(int count) : values(static_cast<size_t>(count + kMargin), kPoison) {}
  int32_t* data() { return values.data(); }
  std::vector<int32_t> values;
};

struct Case {
  int entries, experts, buckets, topk, block_size;
  bool wide;
  std::vector<int32_t> ids, map, values;
  std::vector<int64_t> wide_ids;

  Case() {
    topk = Number(1, 8);
    const int most[] = {0, 10, 40, 100};
    entries = Number(0, most[Number(0, 3)]) * topk;
    if (Chance(8)) entries = Number(1500, 5000) / topk * topk;
    experts = entries > 1000 ? Number(1, 12) : Chance(3) ? Number(1, 8) : Number(9, 40);
    if (entries < 40 && Chance(3)) experts = 200;
    buckets = experts;
    const int sizes[] = {1, 7, 16, 64, 128};
    block_size = sizes[Number(0, 4)];
    wide = Chance(2);
    const bool skewed = Chance(4), strange = Chance(3);
    for (int i = 0; i < entries; ++i) {
      ids.push_back(skewed && !Chance(5) ? 0 : Number(strange ? -2 : 0, experts - 1 + strange));
      wide_ids.push_back(strange && Chance(20) ? int64_t{1} << 32 : ids.back());
      values.push_back(i);
    }
    if (wide) {
      for (int i = 0; i < entries; ++i) {
        if (wide_ids[i] > experts) ids[i] = -1;
      }
    }
    std::shuffle(values.begin(), values.end(), generator);
    if (Chance(2)) {  // some experts are others'
      buckets = Number(1, experts);
      for (int i = 0; i < experts; ++i) map.push_back(i < buckets ? i : -1);
      std::shuffle(map.begin(), map.end(), generator);
    }
  }

  Sort Problem() const {
    Sort sort = {};
    sort.ids = wide ? static_cast<const void*>(wide_ids.data()) : ids.data();
    sort.wide_ids = wide;
    sort.entries = entries;
    sort.experts = experts;
    sort.buckets = buckets;
    sort.map = map.empty() ? nullptr : map.data();
    sort.topk = topk;
    sort.block_size = block_size;
    sort.values = values.data();
    return sort;
  }

  // Entries of each bucket in their order; of what is left out, the last.
  std::vector<std::vector<int>> Sorted() const {
    std::vector<std::vector<int>> of(static_cast<size_t>(buckets + 1));
    for (int i = 0; i < entries; ++i) {
      int bucket = ids[i] < 0 || ids[i] >= experts ? -1 : map.empty() ? ids[i] : map[ids[i]];
      if (bucket < 0 || bucket >= buckets) bucket = buckets;
      of[bucket].push_back(i);
    }
    return of;
  }
};

template <class Kind>
void Run(const Sort& sort, int multiprocessors) {
  const ByExpertPlan plan = PlanByExpert(sort.entries, sort.buckets + Kind::kTail, multiprocessors);
  emulation::Launch({static_cast<unsigned>(plan.blocks)}, plan.threads,
                    [&] { SortByExpertKernel<Kind>(sort, plan.vectors); });
}

bool Same(const char* what, const std::vector<int32_t>& ours, const std::vector<int32_t>& want) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (ours[i] == want[i]) continue;
    std::printf("%s[%zu] is %d, want %d\n", what, i, ours[i], want[i]);
    return false;
  }
  for (size_t i = want.size(); i < ours.size(); ++i) {
    if (ours[i] == kPoison) continue;
    std::printf("%s[%zu] was written\n", what, i);
    return false;
  }
  return true;
}

bool TestAlign(const Case& test, int multiprocessors) {
  Sort sort = test.Problem();
  std::vector<int32_t> rows, blocks;
  const auto of = test.Sorted();
  for (int bucket = 0; bucket < test.buckets; ++bucket) {
    rows.insert(rows.end(), of[bucket].begin(), of[bucket].end());
    while (rows.size() % test.block_size != 0) rows.push_back(test.entries);
    while (blocks.size() < rows.size() / test.block_size) blocks.push_back(bucket);
  }
  const int total = static_cast<int>(rows.size());
  // Now and then less room than there are rows.
  const int room = Chance(4) ? Number(0, total) : total + Number(0, 300);
  rows.resize(static_cast<size_t>(room), test.entries);
  blocks.resize(static_cast<size_t>(vk::cuda::CeilDiv(room, test.block_size)), -1);
  Numbers sorted(room), experts(static_cast<int>(blocks.size())), all(1);
  sort.sorted = sorted.data();
  sort.capacity = room;
  sort.block_experts = experts.data();
  sort.blocks = static_cast<int>(blocks.size());
  sort.total = all.data();
  Run<Align>(sort, multiprocessors);
  return Same("sorted", sorted.values, rows) && Same("experts", experts.values, blocks) &&
         Same("total", all.values, {total});
}

bool TestPermutation(const Case& test, int multiprocessors) {
  Sort sort = test.Problem();
  const auto of = test.Sorted();
  std::vector<int32_t> row_of(static_cast<size_t>(test.entries)), entry_of, firsts;
  int row = 0;
  for (int bucket = 0; bucket <= test.buckets; ++bucket) {
    firsts.push_back(row);
    for (const int entry : of[bucket]) {
      row_of[test.values[entry]] = row++;
      if (bucket < test.buckets) entry_of.push_back(test.values[entry]);
    }
  }
  std::vector<int64_t> first_rows(firsts.size());
  Numbers rows(test.entries), entries(test.entries);
  sort.first_rows = first_rows.data();
  sort.row_of_entry = rows.data();
  sort.entry_of_row = entries.data();
  Run<Permutation>(sort, multiprocessors);
  return Same("row_of_entry", rows.values, row_of) &&
         Same("entry_of_row", entries.values, entry_of) &&
         Same("first_rows", {first_rows.begin(), first_rows.end()}, firsts);
}

bool TestGrouping(const Case& test, int multiprocessors) {
  Sort sort = test.Problem();
  const auto of = test.Sorted();
  const bool rounded = Chance(2);
  std::vector<int32_t> row_of(static_cast<size_t>(test.entries)), token_of, offsets, padded, sizes;
  int row = 0, round = 0;
  for (int bucket = 0; bucket <= test.buckets; ++bucket) {
    offsets.push_back(row);
    padded.push_back(round);
    if (bucket == test.buckets) break;
    const int count = static_cast<int>(of[bucket].size());
    for (const int entry : of[bucket]) {
      row_of[entry] = row++;
      token_of.push_back(entry / test.topk);
    }
    round += (count + 127) / 128 * 128;
    for (const int size : {count, 512, 256}) sizes.push_back(size);
  }
  for (const int entry : of[test.buckets]) row_of[entry] = row;
  Numbers ends(test.buckets + 1), padded_ends(test.buckets + 1), rows(test.entries),
      tokens(test.entries), first(3 * test.buckets), second(3 * test.buckets);
  sort.offsets = ends.data();
  sort.padded_offsets = rounded ? padded_ends.data() : nullptr;
  sort.row_of_entry = rows.data();
  sort.token_of_row = tokens.data();
  sort.sizes = {first.data(), second.data(), 512, 128, 256, false};
  Run<Grouping>(sort, multiprocessors);
  return Same("offsets", ends.values, offsets) &&
         (!rounded || Same("padded_offsets", padded_ends.values, padded)) &&
         Same("row_of_entry", rows.values, row_of) &&
         Same("token_of_row", tokens.values, token_of) && Same("sizes", first.values, sizes);
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    const Case test;
    const int multiprocessors = Number(1, 6);
    const bool right = TestAlign(test, multiprocessors) && TestPermutation(test, multiprocessors) &&
                       TestGrouping(test, multiprocessors);
    if (!right) {
      std::printf("%d entries, %d experts, %d buckets, block %d\n", test.entries, test.experts,
                  test.buckets, test.block_size);
    }
    return right;
  });
}
