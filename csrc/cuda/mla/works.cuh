// Which tiles and keys a block has.
#ifndef VLLM_KERNELS_CUDA_MLA_WORKS_CUH_
#define VLLM_KERNELS_CUDA_MLA_WORKS_CUH_

#include <cstdint>

#include "cuda/mla/problem.h"
#include "cuda/mla/tile.cuh"

namespace vk::cuda::mla {

struct Work {
  Tile tile;
  int32_t keys;                   // of the tile, all parts together
  int32_t first_pair, last_pair;  // those of this part
};

__device__ __forceinline__ int32_t Pairs(int32_t keys) {
  return (keys + kPairKeys - 1) / kPairKeys;
}

// Sparse attention: works are 64 heads of one query and one of `splits` equal parts of its keys.
// Those of one query follow each other, and share its keys in the L2. A block fetches keys of its
// next work while it ends one.
class SparseWorks {
 public:
  static constexpr bool kBlocks = false;  // keys are neighbours by blocks of the cache

  __device__ __forceinline__ explicit SparseWorks(const Problem& p)
      : next_(blockIdx.x), works_(static_cast<uint32_t>(p.works)) {}

  __device__ __forceinline__ bool Next(const Problem& p, Work& work) {
    if (Last()) return false;
    const int32_t head_tiles = (p.heads + kRows - 1) / kRows;
    int32_t index = static_cast<int32_t>(next_);
    next_ += gridDim.x;
    const int32_t head_tile = index % head_tiles;
    index /= head_tiles;
    const int32_t split = index % p.splits;
    index /= p.splits;
    work.tile = TileOf(p, index, head_tile);
    work.tile.partial =
        p.splits == 1 ? -1 : (int64_t{index} * head_tiles + head_tile) * p.splits + split;
    work.keys = p.topk;
    if (p.lengths != nullptr) work.keys = max(0, min(p.topk, p.lengths[work.tile.entry]));
    work.first_pair = split * p.pairs;
    work.last_pair = min(work.first_pair + p.pairs, Pairs(work.keys));
    return true;
  }

  __device__ __forceinline__ bool Last() const { return next_ >= works_; }

  // The index of the cache's slot with a key.
  __device__ __forceinline__ static auto Source(const Problem& p, const Work& work) {
    const int32_t* indices = p.indices + work.tile.entry * p.index_batch_stride +
                             work.tile.first_row / p.heads * p.index_token_stride;
    const int32_t keys = work.keys;
    return [=](int32_t key) { return key < keys ? __ldg(indices + key) : -1; };
  }

  // What is merged: every row.
  struct Merges {
    __device__ __forceinline__ explicit Merges(const Problem&) {}

    template <class Body>
    __device__ __forceinline__ void Row(const Problem& p, int64_t row, const Body& body) const {
      if (row >= int64_t{p.batch} * p.queries * p.heads) return;
      const int32_t query = static_cast<int32_t>(row / p.heads);
      const int32_t head = static_cast<int32_t>(row - int64_t{query} * p.heads);
      const int32_t head_tiles = (p.heads + kRows - 1) / kRows, head_tile = head / kRows;
      const int64_t first = (int64_t{query} * head_tiles + head_tile) * p.splits;
      body(TileOf(p, query, head_tile), head % kRows, p.splits,
           [=](int32_t split) { return first + split; });
    }
  };

 private:
  // Of a query of all, and a tile of its heads.
  __device__ __forceinline__ static Tile TileOf(const Problem& p, int32_t query,
                                                int32_t head_tile) {
    const int32_t entry = query / p.queries;
    const int32_t first_head = head_tile * kRows;
    return {entry, (query - entry * p.queries) * p.heads + first_head,
            min(kRows, p.heads - first_head), -1};
  }
  uint32_t next_, works_;
};

// Dense attention: the pairs of keys of all batch entries, one after the other, are divided among
// parts of equal cost (cuts.cuh). A part has a block for each tile of an entry's rows, which
// read the same keys at the same time. At most its first and its last entry are shared with others.
class DenseWorks {
 public:
  static constexpr bool kBlocks = true;

  __device__ __forceinline__ explicit DenseWorks(const Problem& p)
      : part_(p.schedule[blockIdx.y]), next_(part_.entry) {
    const Cut end = p.schedule[blockIdx.y + 1];
    last_ = end.unit > 0 ? end.entry : end.entry - 1;
    last_pair_ = end.unit;
    end_entry_ = end.entry;
  }

  __device__ __forceinline__ bool Next(const Problem& p, Work& work) {
    if (next_ > last_) return false;
    const int32_t entry = next_++;
    work.tile = TileOf(p, entry, static_cast<int32_t>(blockIdx.x));
    work.keys = KeysOf(p, entry);
    const int32_t pairs = Pairs(work.keys);
    work.first_pair = entry == part_.entry ? part_.unit : 0;
    work.last_pair = entry == end_entry_ ? last_pair_ : pairs;
    const bool begins = work.first_pair == 0;
    if (!begins || work.last_pair < pairs) {
      work.tile.partial = Partial(static_cast<int32_t>(blockIdx.y), begins) * Tiles(p) + blockIdx.x;
    }
    return true;
  }

  __device__ __forceinline__ bool Last() const { return next_ > last_; }

  __device__ __forceinline__ static auto Source(const Problem& p, const Work& work) {
    const int32_t* table = p.indices + work.tile.entry * p.index_batch_stride;
    const int32_t keys = work.keys, shift = p.block_shift, slots = p.slots;
    return [=](int32_t key) {
      if (key >= keys) return -1;
      // A block that is not there has no keys.
      const int32_t block = __ldg(table + (key >> shift));
      if (block < 0 || block >= slots >> shift) return -1;
      return (block << shift) + (key & ((1 << shift) - 1));
    };
  }

  // What is merged: the entry that begins in a part and is not ended there, if there is one; blocks
  // have a part in y, or an entry where there are fewer. Known before attention has ended.
  class Merges {
   public:
    __device__ __forceinline__ explicit Merges(const Problem& p) {
      const int32_t index = static_cast<int32_t>(blockIdx.y);
      part_ = p.batch < p.parts ? PartsUntil(p, index, 0) - 1 : index;
      const Cut begin = p.schedule[part_], end = p.schedule[part_ + 1];
      if (end.unit == 0 || (begin.entry == end.entry && begin.unit > 0)) return;
      if (p.batch < p.parts && end.entry != index) return;
      entry_ = end.entry;
      count_ = PartsUntil(p, end.entry, INT32_MAX) - part_;
    }

    template <class Body>
    __device__ __forceinline__ void Row(const Problem& p, int64_t row, const Body& body) const {
      if (count_ == 0 || row >= p.queries * p.heads) return;
      const int64_t tiles = Tiles(p);
      const int32_t tile = static_cast<int32_t>(row) / kRows, part = part_;
      body(TileOf(p, entry_, tile), static_cast<int>(row) % kRows, count_,
           [=](int32_t piece) { return Partial(part + piece, piece == 0) * tiles + tile; });
    }

   private:
    int32_t part_, entry_ = 0, count_ = 0;
  };

  __device__ __forceinline__ static int32_t KeysOf(const Problem& p, int32_t entry) {
    return max(0, min(p.topk, p.lengths[entry]));
  }

 private:
  __device__ __forceinline__ static int32_t Tiles(const Problem& p) {
    return (p.queries * p.heads + kRows - 1) / kRows;
  }
  __device__ __forceinline__ static Tile TileOf(const Problem& p, int32_t entry, int32_t tile) {
    return {entry, tile * kRows, min(kRows, p.queries * p.heads - tile * kRows), -1};
  }
  // How many parts begin no later than that; a whole warp calls.
  __device__ __forceinline__ static int32_t PartsUntil(const Problem& p, int32_t entry,
                                                       int32_t unit) {
    int32_t count = 0;
#pragma unroll 4
    for (int32_t base = 0; base < p.parts; base += 32) {
      const int32_t part = base + static_cast<int32_t>(threadIdx.x) % 32;
      bool until = false;
      if (part < p.parts) {
        const Cut cut = p.schedule[part];
        until = cut.entry < entry || (cut.entry == entry && cut.unit <= unit);
      }
      count += __popc(__ballot_sync(0xffffffffu, until));
    }
    return count;
  }
  // A part has room for a piece of an entry that begins there, and for one of an entry that began
  // before it.
  __device__ __forceinline__ static int64_t Partial(int32_t part, bool begins) {
    return int64_t{part} * 2 + begins;
  }

  Cut part_;
  int32_t next_, last_, last_pair_, end_entry_;
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_WORKS_CUH_
