// Norms of queries and keys that lie on several emulated GPUs: sums are exchanged call after call
// in three areas. Every block of a rank is a block of one emulated cluster.
// rms_qk_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "seeded.h"

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }

#include "cuda/all_reduce/rms_qk.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda10all_reduce13rms_qk_sharedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::all_reduce;

constexpr int64_t kMostRows = 4;
constexpr float kEpsilon = 1e-5f;

template <class T>
struct Rank {
  std::vector<uint64_t> sums;  // three areas
  int32_t state[3] = {};
  int64_t layout[2] = {};
  std::vector<int64_t> workspace;
  std::vector<T> qkv, q_weight, k_weight, q, k;
};

template <class T>
struct Group {
  explicit Group(int ranks) : all(static_cast<size_t>(ranks)) {
    const uint64_t none = uint64_t{kNoSum} << 32 | kNoSum;
    for (Rank<T>& rank : all) {
      const int64_t words = ranks * kMostRows + 2;
      rank.sums.assign(static_cast<size_t>(kAreas * words), none);
      rank.layout[1] = words * 8;
    }
    for (Rank<T>& rank : all) {
      rank.workspace.assign(static_cast<size_t>(2 * ranks), 0);
      for (Rank<T>& peer : all) rank.workspace.push_back(Address(peer.sums.data()));
      rank.workspace.push_back(Address(rank.state));
      rank.workspace.push_back(Address(rank.layout));
    }
  }

  static int64_t Address(void* at) { return reinterpret_cast<int64_t>(at); }

  bool Call() {
    constexpr int kStep = kVecSize<T>;
    const int ranks = static_cast<int>(all.size());
    const int64_t tokens = Number(1, kMostRows);
    const int blocks = Number(1, static_cast<int>(tokens) < 3 ? static_cast<int>(tokens) : 3);
    const int q_size = kStep * Number(1, 300), k_size = kStep * Number(1, 40);
    const int64_t stride = q_size + 2 * k_size;
    std::vector<NormProblem> problems;
    for (int i = 0; i < ranks; ++i) {
      Rank<T>& rank = all[static_cast<size_t>(i)];
      const auto fill = [](std::vector<T>& values, int64_t count) {
        values.resize(static_cast<size_t>(count));
        for (T& value : values) value = FromFloat<T>(Normal());
      };
      fill(rank.qkv, tokens * stride);
      fill(rank.q_weight, q_size);
      fill(rank.k_weight, k_size);
      // A row of zeros has sums of 0, which are no -0.
      if (Chance(3)) std::fill(rank.qkv.begin(), rank.qkv.end(), FromFloat<T>(0.0f));
      rank.q.assign(static_cast<size_t>(tokens * q_size), FromFloat<T>(NAN));
      rank.k.assign(static_cast<size_t>(tokens * k_size), FromFloat<T>(NAN));
      NormProblem p{};
      p.qkv = rank.qkv.data(), p.q_weight = rank.q_weight.data();
      p.k_weight = rank.k_weight.data();
      p.q_out = rank.q.data(), p.k_out = rank.k.data();
      p.workspace = rank.workspace.data();
      p.token_stride = stride, p.tokens = tokens;
      p.q_size = q_size, p.k_size = k_size, p.rank = i, p.ranks = ranks, p.epsilon = kEpsilon;
      problems.push_back(p);
    }
    // Ranks come at different times, up to one that has sent its sums before another starts.
    std::vector<int> late(static_cast<size_t>(ranks));
    for (int& one : late) one = Number(0, 1) * 200;
    emulation::SetGrid({static_cast<unsigned>(blocks)}, [&, blocks] {
      const auto rank = static_cast<size_t>(emulation::running / blocks);
      for (int i = 0; i < late[rank]; ++i) emulation::Yield();
      NormSumsKernel<T, T>(problems[rank]);
    });
    emulation::block_size.x = kRowThreads;
    const unsigned count = static_cast<unsigned>(ranks * blocks);
    emulation::cluster.resize(count);
    for (unsigned i = 0; i < count; ++i) {
      emulation::StartBlock(emulation::cluster[i], {i % static_cast<unsigned>(blocks), 0, 0},
                            kRowThreads);
    }
    emulation::RunCluster();
    for (int64_t token = 0; token < tokens; ++token) {
      if (!Right("q", token, stride, 0, q_size, &Rank<T>::q, &Rank<T>::q_weight)) return false;
      if (!Right("k", token, stride, q_size, k_size, &Rank<T>::k, &Rank<T>::k_weight)) return false;
    }
    return true;
  }

  bool Right(const char* what, int64_t token, int64_t stride, int64_t first, int64_t size,
             std::vector<T> Rank<T>::* out, std::vector<T> Rank<T>::* weight) const {
    double sum = 0;
    for (const Rank<T>& rank : all) {
      for (int64_t i = 0; i < size; ++i) {
        const double x = ToFloat(rank.qkv[static_cast<size_t>(token * stride + first + i)]);
        sum += x * x;
      }
    }
    const double factor =
        1 / std::sqrt(sum / (static_cast<double>(size) * static_cast<double>(all.size())) +
                      static_cast<double>(kEpsilon));
    for (const Rank<T>& rank : all) {
      for (int64_t i = 0; i < size; ++i) {
        const double x = ToFloat(rank.qkv[static_cast<size_t>(token * stride + first + i)]);
        const double want = x * factor * ToFloat((rank.*weight)[static_cast<size_t>(i)]);
        const double got = ToFloat((rank.*out)[static_cast<size_t>(token * size + i)]);
        // One rounding to T, and a few of float32.
        const double bound = std::abs(want) * (sizeof(T) == 4 ? 2e-6 : 0.0041) + 1e-6;
        if (std::abs(got - want) <= bound) continue;
        std::printf("%s: %zu ranks, token %lld, column %lld is %g, want %g\n", what, all.size(),
                    static_cast<long long>(token), static_cast<long long>(i), got, want);
        return false;
      }
    }
    return true;
  }

  std::vector<Rank<T>> all;
};

// Several calls one after the other on the same memory.
template <class T>
bool Calls(int ranks, int count) {
  Group<T> group(ranks);
  for (int i = 0; i < count; ++i) {
    if (!group.Call()) return false;
  }
  return true;
}

}  // namespace

int main(int, char** arguments) {
  const int count = Begin(arguments);
  const bool right = Calls<float>(1, count) && Calls<BFloat16>(2, count) && Calls<Half>(3, count);
  return right ? 0 : 1;
}
