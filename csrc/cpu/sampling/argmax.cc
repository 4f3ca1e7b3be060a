#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/sampling/sampling.h"

namespace {

using vk::Arg;

// Elements of a row for a thread, so that one long row keeps several busy.
constexpr int64_t kPiece = 65536;
// Rows whose pieces are kept at once: expanded logits may have any number.
constexpr int64_t kRowsAtOnce = 4096;

class Logits {
 public:
  Logits(const char* op, const vk_tensor* tokens, const vk_tensor* logits) {
    const Arg in(op, "logits", logits), out(op, "tokens", tokens);
    in.Dtype({VK_F32}).Dims(2).LastDimContiguous();
    out.Dtype({VK_I64}).Dims(1).Contiguous().Size(0, in.size(0));
    VK_CHECK(in.size(1) > 0 && in.size(1) <= std::numeric_limits<int32_t>::max(),
             "%s: logits has shape %s, want a vocabulary of 1 to 2147483647", op,
             vk::ShapeString(*logits).c_str());
    first_ = static_cast<const float*>(logits->data);
    tokens_ = static_cast<int64_t*>(tokens->data);
    rows_ = in.size(0);
    width_ = in.size(1);
    stride_ = in.stride(0);
    pieces_ = vk::CeilDiv(width_, kPiece);
  }

  // The best of each row: `find(row, values, begin, count)` of a piece, merged from left to right
  // by `better(new, old)`.
  template <class Best, class Find, class Better>
  void Choose(const Find& find, const Better& better) const {
    std::vector<Best> found(static_cast<size_t>(std::min(rows_, kRowsAtOnce) * pieces_));
    const int64_t grain = vk::GrainFor(std::min(width_, kPiece) * int64_t{sizeof(float)});
    for (int64_t first = 0; first < rows_; first += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, rows_ - first);
      vk::ParallelFor(rows * pieces_, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t row = first + i / pieces_, from = i % pieces_ * kPiece;
          const int64_t count = std::min(kPiece, width_ - from);
          found[i] = find(row, first_ + row * stride_ + from, from, count);
        }
      });
      for (int64_t row = 0; row < rows; ++row) {
        Best best = found[row * pieces_];
        for (int64_t piece = 1; piece < pieces_; ++piece) {
          const Best& next = found[row * pieces_ + piece];
          if (better(next, best)) best = next;
        }
        tokens_[first + row] = static_cast<int64_t>(best.place);
      }
    }
  }

 private:
  const float* first_;
  int64_t* tokens_;
  int64_t rows_, width_, stride_, pieces_;
};

// The finalizer of MurmurHash3 (Appleby 2011).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDu;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
  return x ^ (x >> 33);
}

// A logit and its noise stay apart: in their sum a large logit would swallow the noise.
struct Drawn {
  double logit = 0.0, noise = -std::numeric_limits<double>::infinity();
  size_t place = 0;

  bool operator>(const Drawn& other) const { return (logit - other.logit) + noise > other.noise; }
};

Drawn Draw(uint64_t seed, const float* values, int64_t begin, int64_t count) {
  constexpr double kUnit = 0x1.0p-53, kLn2 = 0.6931471805599453;
  const uint64_t key = Mix(seed ^ 0x9E3779B97F4A7C15u);
  Drawn best;
  for (int64_t i = 0; i < count; ++i) {
    const double logit = values[i];
    if (!(logit > -std::numeric_limits<double>::infinity())) continue;
    const uint64_t token = static_cast<uint64_t>(begin + i);
    const uint64_t bits = Mix(key + token * 0x9E3779B97F4A7C15u) >> 11;
    // With v uniform in (0, 1) the noise is -log(-log(1 - v)), at most -log(v), which the number of
    // leading zeros bounds: the logarithms are taken for the few tokens that may win.
    const double bound = kLn2 * (bits == 0 ? 54 : __builtin_clzll(bits) - 10);
    if (!((logit - best.logit) + bound > best.noise)) continue;
    const double v = (static_cast<double>(bits) + 0.5) * kUnit;
    const Drawn next{logit, -std::log(-std::log1p(-v)), static_cast<size_t>(token)};
    if (next > best) best = next;
  }
  return best;
}

}  // namespace

extern "C" {

vk_status vk_cpu_greedy_argmax(const vk_tensor* tokens, const vk_tensor* logits) {
  return vk::Guard([&] {
    const Logits rows("greedy_argmax", tokens, logits);
    const auto largest = vk::Kernels().sampling->largest;
    rows.Choose<vk::Largest>(
        [&](int64_t, const float* values, int64_t from, int64_t count) {
          vk::Largest found = largest(values, static_cast<size_t>(count));
          found.place += static_cast<size_t>(from);
          return found;
        },
        [](const vk::Largest& next, const vk::Largest& best) {
          if (std::isnan(best.value)) return false;
          return std::isnan(next.value) || next.value > best.value;
        });
  });
}

vk_status vk_cpu_fused_gumbel_argmax(const vk_tensor* tokens, const vk_tensor* logits,
                                     const vk_tensor* seeds) {
  return vk::Guard([&] {
    const char* op = "fused_gumbel_argmax";
    const Logits rows(op, tokens, logits);
    Arg(op, "seeds", seeds).Dtype({VK_I64}).Dims(1).Contiguous().Size(0, tokens->shape[0]);
    const int64_t* seed = static_cast<const int64_t*>(seeds->data);
    rows.Choose<Drawn>(
        [&](int64_t row, const float* values, int64_t from, int64_t count) {
          return Draw(static_cast<uint64_t>(seed[row]), values, from, count);
        },
        [](const Drawn& next, const Drawn& best) { return next > best; });
  });
}

}  // extern "C"
