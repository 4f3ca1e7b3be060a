// Collectives of several ranks on an emulated GPU each: every block of a rank is a block of one
// emulated cluster, and meets the same block of its peers through memory.
// all_reduce_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "cuda/all_reduce/launch.h"  // before device.h, which gives gridDim another meaning

#include "device.h"
#include "seeded.h"

#include "cuda/all_reduce/kernels.cuh"

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::all_reduce;

constexpr int64_t kMost = 40 * kThreads;  // vectors of a message
constexpr uint32_t kPoison = 0x7fc07fc0;  // NaN in float32 and bfloat16

struct Rank {
  // Signals with room for sums, and a buffer that peers read.
  std::vector<uint4> shared =
      std::vector<uint4>(sizeof(Signals) / kVectorBytes + kMost, uint4{0, 0, 0, 0});
  std::vector<uint4> buffer = std::vector<uint4>(kMost, uint4{kPoison, kPoison, kPoison, kPoison});
  std::vector<uint4> input, output;
  Peers peers{}, inputs{};
};

template <class T>
struct Group {
  explicit Group(int ranks) : all(static_cast<size_t>(ranks)) {
    for (Rank& rank : all) {
      for (int i = 0; i < ranks; ++i) rank.peers.data[i] = all[i].buffer.data();
    }
    // A count that is about to wrap around.
    const uint32_t before = Number(0, 1) ? 0 : 0xffffffffu - static_cast<uint32_t>(Number(0, 4));
    for (Rank& rank : all) {
      Signals& signals = *reinterpret_cast<Signals*>(rank.shared.data());
      for (auto& block : signals.arrived) std::fill(std::begin(block), std::end(block), before);
      std::fill(std::begin(signals.passed), std::end(signals.passed), before);
    }
  }

  void Fill(int64_t in, int64_t out) {
    for (Rank& rank : all) {
      rank.input.assign(in, uint4{});
      rank.output.assign(out, uint4{kPoison, kPoison, kPoison, kPoison});
      T* values = reinterpret_cast<T*>(rank.input.data());
      for (int64_t i = 0; i < in * kVecSize<T>; ++i) {
        values[i] = FromFloat<T>(static_cast<float>(Number(-1000, 1000)) / 64);
      }
    }
    for (Rank& rank : all) {
      for (size_t i = 0; i < all.size(); ++i) rank.inputs.data[i] = all[i].input.data();
    }
  }

  // `kernel` of every rank at once. Its grid is that of one rank.
  void Run(int blocks, int64_t vectors, bool staged, void (*kernel)(Problem)) {
    std::vector<Problem> problems;
    for (size_t i = 0; i < all.size(); ++i) {
      Problem p{};
      for (size_t j = 0; j < all.size(); ++j) {
        p.signals[j] = reinterpret_cast<Signals*>(all[j].shared.data());
      }
      p.peers = staged ? &all[i].peers : &all[i].inputs;
      p.input = all[i].input.data();
      p.output = all[i].output.data();
      p.vectors = vectors;
      p.rank = static_cast<int>(i);
      problems.push_back(p);
    }
    const unsigned count = static_cast<unsigned>(all.size()) * static_cast<unsigned>(blocks);
    emulation::SetGrid({static_cast<unsigned>(blocks)}, [&, blocks] {
      // Ranks take turns within the cluster.
      kernel(problems[static_cast<size_t>(emulation::running / blocks)]);
    });
    emulation::block_size.x = kThreads;
    emulation::cluster.resize(count);
    for (unsigned i = 0; i < count; ++i) {
      emulation::StartBlock(emulation::cluster[i], {i % static_cast<unsigned>(blocks), 0, 0},
                            kThreads);
    }
    emulation::RunCluster();
  }

  float Sum(int64_t element) const {
    float sum = 0;
    for (const Rank& rank : all) {
      sum += ToFloat(reinterpret_cast<const T*>(rank.input.data())[element]);
    }
    return ToFloat(FromFloat<T>(sum));
  }

  bool Same(const char* what, size_t rank, int64_t element, float want) const {
    const float got = ToFloat(reinterpret_cast<const T*>(all[rank].output.data())[element]);
    if (got == want) return true;
    std::printf("%s: %zu ranks, rank %zu: element %lld is %g, want %g\n", what, all.size(), rank,
                static_cast<long long>(element), got, want);
    return false;
  }

  std::vector<Rank> all;
};

template <class T, int kRanks>
bool AllReduce(Group<T>& group, bool two_shot, bool staged) {
  const int64_t vectors = Number(1, Number(0, 1) ? 40 : 4 * kThreads);
  const int blocks = Number(1, 3);
  group.Fill(vectors, vectors);
  void (*const kernels[2][2])(Problem) = {
      {OneShotKernel<T, kRanks, false>, OneShotKernel<T, kRanks, true>},
      {TwoShotKernel<T, kRanks, false>, TwoShotKernel<T, kRanks, true>}};
  group.Run(blocks, vectors, staged, kernels[two_shot][staged]);
  for (size_t rank = 0; rank < kRanks; ++rank) {
    for (int64_t i = 0; i < vectors * kVecSize<T>; ++i) {
      if (!group.Same(two_shot ? "two shots" : "one shot", rank, i, group.Sum(i))) return false;
    }
  }
  return true;
}

template <class T, int kRanks>
bool ReduceScatter(Group<T>& group) {
  const int64_t share = Number(1, 600);
  group.Fill(share * kRanks, share);
  group.Run(Number(1, 2), share, true, ReduceScatterKernel<T, kRanks>);
  const int64_t elements = share * kVecSize<T>;
  for (size_t rank = 0; rank < kRanks; ++rank) {
    for (int64_t i = 0; i < elements; ++i) {
      if (!group.Same("reduce-scatter", rank, i, group.Sum(rank * elements + i))) return false;
    }
  }
  return true;
}

template <class T, int kRanks>
bool AllGather(Group<T>& group) {
  const int64_t vectors = Number(1, 600);
  group.Fill(vectors, vectors * kRanks);
  group.Run(Number(1, 2), vectors, true, AllGatherKernel<kRanks>);
  const int64_t elements = vectors * kVecSize<T>;
  for (size_t rank = 0; rank < kRanks; ++rank) {
    for (int64_t i = 0; i < elements * kRanks; ++i) {
      const Rank& from = group.all[i / elements];
      const T want = reinterpret_cast<const T*>(from.input.data())[i % elements];
      if (!group.Same("all-gather", rank, i, ToFloat(want))) return false;
    }
  }
  return true;
}

// Several collectives one after the other on the same memory.
template <class T, int kRanks>
bool Calls(int count) {
  Group<T> group(kRanks);
  for (int i = 0; i < count; ++i) {
    const int kind = Number(0, 5);
    const bool right = kind < 4    ? AllReduce<T, kRanks>(group, kind / 2, kind % 2)
                       : kind == 4 ? ReduceScatter<T, kRanks>(group)
                                   : AllGather<T, kRanks>(group);
    if (!right) return false;
  }
  return true;
}

bool TestPlans() {
  bool right = true;
  for (const int ranks : {2, 4, 6, 8}) {
    for (int64_t bytes = 16; bytes <= int64_t{1} << 33; bytes = bytes * 3 / 16 * 16 + 16) {
      const Plan plan = PlanAllReduce(bytes, ranks);
      if (plan.blocks >= 1 && plan.blocks <= kMaxBlocks && (ranks > 2 || !plan.two_shot)) continue;
      std::printf("plan of %lld bytes, %d ranks: %d blocks\n", static_cast<long long>(bytes), ranks,
                  plan.blocks);
      right = false;
    }
  }
  return right;
}

}  // namespace

int main(int, char** arguments) {
  const int count = Begin(arguments);
  const bool right = TestPlans() && Calls<float, 2>(count) && Calls<BFloat16, 4>(count) &&
                     Calls<Half, 6>(count) && Calls<BFloat16, 8>(count);
  return right ? 0 : 1;
}
