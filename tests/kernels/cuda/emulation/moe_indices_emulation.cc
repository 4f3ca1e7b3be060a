// Kernels of csrc/cuda/moe_routing whose indices lie on the device, on an emulated GPU: some of the
// indices name nothing. moe_indices_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "cuda/moe_routing/launch.h"  // before device.h, which gives gridDim another meaning

#include "device.h"
#include "seeded.h"

#include <climits>

// One block runs at a time.
#undef __shared__
#define __shared__ static

#include "cuda/moe_routing/batched_align.cuh"
#include "cuda/moe_routing/rows.cuh"
#include "cuda/moe_routing/table.cuh"

namespace {

using namespace emulation::seeded;
using namespace vk::cuda::moe_routing;

constexpr int kPoison = -77;

// A number below `count`, or one that is not.
int Wild(int count) {
  const int others[] = {-1, count, count + 1, INT_MAX, INT_MIN, -count};
  return count == 0 || Chance(4) ? others[Number(0, 5)] : Number(0, count - 1);
}

bool Inside(int64_t index, int64_t count) { return index >= 0 && index < count; }

template <class T>
bool Same(const char* what, const std::vector<T>& ours, const std::vector<T>& want) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::abs(double(ours[i]) - double(want[i])) <= 1e-5 * std::abs(double(want[i]))) continue;
    std::printf("%s[%zu] is %g, want %g\n", what, i, double(ours[i]), double(want[i]));
    return false;
  }
  return true;
}

std::vector<float> Floats(int count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& one : values) one = Normal();
  return values;
}

std::vector<int32_t> Indices(int count, int below) {
  std::vector<int32_t> indices(static_cast<size_t>(count));
  for (int32_t& one : indices) one = Wild(below);
  return indices;
}

bool TestTable() {
  const int tokens = Number(1, 40), experts = Number(1, 70), topk = Number(1, 40);
  const int vocabulary = Number(0, 30);
  const std::vector<float> scores = Floats(tokens * experts);
  const std::vector<int32_t> ids = Indices(tokens, vocabulary);
  const std::vector<int32_t> table = Indices(vocabulary * topk, experts);
  const size_t size = static_cast<size_t>(tokens) * topk;
  std::vector<float> weights(size, NAN), want_weights(size);
  std::vector<int32_t> indices(size, kPoison), rows(size), want(size);
  TopK problem = {};
  problem.scores = scores.data();
  problem.score_stride = experts;
  problem.weights = weights.data();
  problem.indices = indices.data();
  problem.source_rows = rows.data();
  problem.tokens = tokens;
  problem.experts = experts;
  problem.topk = topk;
  problem.factor = 1.0f;
  problem.token_ids = ids.data();
  problem.table = table.data();
  problem.table_rows = vocabulary;
  emulation::Launch({static_cast<unsigned>(tokens + 3) / 4}, kThreads,
                    [&] { TableKernel<float, int32_t, int32_t>(problem, false); });
  for (int i = 0; i < tokens * topk; ++i) {
    const int token = i / topk, id = ids[token];
    want[i] = Inside(id, vocabulary) ? table[id * topk + i % topk] : -1;
    if (!Inside(want[i], experts)) continue;
    const double score = scores[token * experts + want[i]];
    want_weights[i] = static_cast<float>(std::sqrt(std::log1p(std::exp(score))));
  }
  return Same("indices", indices, want) && Same("weights", weights, want_weights);
}

bool TestReduce() {
  const int tokens = Number(1, 9), topk = Number(1, 9), rows = Number(0, 20),
            width = Number(1, 300);
  const std::vector<float> input = Floats(rows * width), weights = Floats(tokens * topk);
  const std::vector<int32_t> index = Indices(tokens * topk, rows);
  const int64_t end = Wild(rows);
  std::vector<float> output(static_cast<size_t>(tokens) * width, NAN), want(output.size());
  Reduce reduce = {};
  reduce.input = input.data();
  reduce.output = output.data();
  reduce.tokens = tokens;
  reduce.topk = topk;
  reduce.width = reduce.token_stride = reduce.output_stride = width;
  reduce.column_stride = 1;
  reduce.rows = index.data();
  reduce.weights = weights.data();
  reduce.input_rows = rows;
  reduce.end = Chance(2) ? &end : nullptr;
  const int row_blocks = (width + kRowThreads - 1) / kRowThreads;
  emulation::Launch({static_cast<unsigned>(tokens * row_blocks)}, kRowThreads, [&] {
    if (topk <= 2) {
      ReduceKernel<float, 1, 2, true>(reduce, row_blocks);
    } else {
      ReduceKernel<float, 1, 8, true>(reduce, row_blocks);
    }
  });
  for (int token = 0; token < tokens; ++token) {
    for (int column = 0; column < width; ++column) {
      float& sum = want[token * width + column];
      for (int k = 0; k < topk; ++k) {
        const int row = index[token * topk + k];
        if (!Inside(row, rows) || (reduce.end != nullptr && row >= end)) continue;
        sum = std::fma(weights[token * topk + k], input[row * width + column], sum);
      }
    }
  }
  return Same("sums", output, want);
}

bool TestGather() {
  const int rows = Number(1, 40), sources = Number(0, 20), width = Number(1, 40);
  std::vector<uint8_t> input(static_cast<size_t>(sources) * width);
  for (uint8_t& byte : input) byte = static_cast<uint8_t>(Number(0, 255));
  const std::vector<int32_t> index = Indices(rows, sources);
  std::vector<uint8_t> output(static_cast<size_t>(rows) * width, 0xa5), want = output;
  Copy copy = {};
  copy.input = reinterpret_cast<const char*>(input.data());
  copy.output = reinterpret_cast<char*>(output.data());
  copy.input_stride = copy.output_stride = copy.bytes = width;
  copy.rows = rows;
  copy.index = index.data();
  copy.input_rows = sources;
  emulation::Launch({static_cast<unsigned>(rows)}, 32, [&] { GatherKernel<uint8_t>(copy); });
  for (int row = 0; row < rows; ++row) {
    if (!Inside(index[row], sources)) continue;
    std::copy_n(&input[index[row] * width], width, &want[row * width]);
  }
  return Same("rows", output, want);
}

bool TestBatchedAlign() {
  constexpr int kMargin = 64;
  const int experts = Number(1, 40), most = Number(0, 30), block = Number(1, 9);
  const int each = (most + block - 1) / block;
  const std::vector<int32_t> counts = Indices(experts, most + 1);
  BatchedAlign align = {};
  align.counts = counts.data();
  align.experts = experts;
  align.max_tokens = most;
  align.block_size = block;
  align.blocks = experts * each;
  align.capacity = align.blocks * block;
  // What is outside of a tensor stays as it is: before it too.
  std::vector<int32_t> sorted(static_cast<size_t>(align.capacity + 2 * kMargin), kPoison);
  std::vector<int32_t> names(static_cast<size_t>(align.blocks + 2 * kMargin), kPoison), total(1);
  std::vector<int32_t> want = sorted, want_names = names;
  align.sorted = sorted.data() + kMargin;
  align.block_experts = names.data() + kMargin;
  align.total = total.data();
  emulation::Launch({static_cast<unsigned>(Number(1, 3))}, kBatchedThreads,
                    [&] { BatchedAlignKernel(align); });
  int place = 0;
  for (int expert = 0; expert < experts; ++expert) {
    const int count = std::clamp(counts[expert], 0, most);
    for (int i = 0; i < (count + block - 1) / block * block; ++i, ++place) {
      want[kMargin + place] = i < count ? expert * most + i : experts * most;
      want_names[kMargin + place / block] = expert;
    }
  }
  const int all = place;
  for (; place < align.capacity; ++place) want[kMargin + place] = experts * most;
  for (int i = all / block; i < align.blocks; ++i) want_names[kMargin + i] = -1;
  return Same("sorted", sorted, want) && Same("experts", names, want_names) &&
         Same("total", total, {all});
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments,
                [] { return TestTable() && TestReduce() && TestGather() && TestBatchedAlign(); });
}
