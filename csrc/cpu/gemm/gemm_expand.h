// Expands compact weights (gemm_table.h). For `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_EXPAND_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_EXPAND_H_

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/gemm/gemm_tier.h"

namespace vk::VK_TIER {

// Goes through the rows of one panel.
class Expander {
 public:
  explicit Expander(const GemmCompact& from)
      : data_(reinterpret_cast<const uint8_t*>(from.data)),
        at_(from.row * kCompactRowValues),
        codes_(from.codes),
        rare_(from.rare) {}

  // The next kRows rows, as packed bfloat16. kFetch: nobody else fetches what comes later.
  template <size_t kRows, bool kFetch = true>
  HWY_INLINE void Next(char* to) {
    uint8_t* row = reinterpret_cast<uint8_t*>(to);
    const D8 d;
    const auto upper = hn::LoadDup128(d, codes_->upper), lower = hn::LoadDup128(d, codes_->lower);
#pragma GCC unroll 4
    for (size_t i = 0; i < kRows; ++i) {
      for (size_t byte = 0; kFetch && byte < kCompactRowBytes; byte += 64) {
        __builtin_prefetch(data_ + kFetchAhead + byte, 0, 2);
      }
      for (size_t byte = 0; byte < kHalf; byte += hn::Lanes(d)) {
        const auto codes = hn::LoadU(d, data_ + 2 * kHalf + byte);
        Half(hn::And(codes, hn::Set(d, 15)), upper, lower, byte, row);
        Half(hn::ShiftRight<4>(codes), upper, lower, kHalf + byte, row + 2 * kHalf);
      }
      data_ += kCompactRowBytes;
      row += kCompactRowValues * 2;
    }
    const size_t begin = at_;
    at_ += kRows * kCompactRowValues;
    for (; HWY_UNLIKELY(rare_->at < at_); ++rare_) Put(to, rare_->at - begin);
  }

#if defined(__AVX512BF16__)
  // The next row in registers, as packed bfloat16.
  HWY_INLINE void NextRow(__m512bh (&to)[4]) {
    const D8 d;
    static_assert(hn::MaxLanes(D8()) == kHalf, "a half of a row is one vector");
    const auto upper = hn::LoadDup128(d, codes_->upper), lower = hn::LoadDup128(d, codes_->lower);
    for (size_t byte = 0; byte < kCompactRowBytes; byte += 64) {
      __builtin_prefetch(data_ + kFetchAhead + byte, 0, 2);
    }
    const auto both = hn::LoadU(d, data_ + 2 * kHalf);
    const hn::Vec<D8> codes[2] = {hn::And(both, hn::Set(d, 15)), hn::ShiftRight<4>(both)};
    for (size_t half = 0; half < 2; ++half) {
      const auto bits = hn::LoadU(d, data_ + half * kHalf);
      const auto high = Upper(upper, codes[half], bits), low = Lower(lower, codes[half], bits);
      to[2 * half] = (__m512bh)hn::InterleaveLower(d, low, high).raw;
      to[2 * half + 1] = (__m512bh)hn::InterleaveUpper(d, low, high).raw;
    }
    data_ += kCompactRowBytes;
    at_ += kCompactRowValues;
    if (HWY_LIKELY(rare_->at >= at_)) return;
    alignas(64) char row[kCompactRowValues * 2];
    std::memcpy(row, to, sizeof(row));
    for (; rare_->at < at_; ++rare_) Put(row, rare_->at % kCompactRowValues);
    std::memcpy(to, row, sizeof(row));
  }
#endif

  // Of the next kRows rows the first or the second 64 values, by themselves.
  template <size_t kRows, size_t kWhich>
  HWY_INLINE void NextHalf(char* to) {
    uint8_t* row = reinterpret_cast<uint8_t*>(to);
    const D8 d;
    const auto upper = hn::LoadDup128(d, codes_->upper), lower = hn::LoadDup128(d, codes_->lower);
#pragma GCC unroll 4
    for (size_t i = 0; i < kRows; ++i) {
      __builtin_prefetch(data_ + kFetchAhead + kWhich * kHalf, 0, 2);
      __builtin_prefetch(data_ + kFetchAhead + 2 * kHalf, 0, 2);
      for (size_t byte = 0; byte < kHalf; byte += hn::Lanes(d)) {
        const auto codes = hn::LoadU(d, data_ + 2 * kHalf + byte);
        Half(kWhich == 0 ? hn::And(codes, hn::Set(d, 15)) : hn::ShiftRight<4>(codes), upper, lower,
             kWhich * kHalf + byte, row);
      }
      data_ += kCompactRowBytes;
      row += kHalf * 2;
    }
    const size_t begin = at_;
    at_ += kRows * kCompactRowValues;
    for (; HWY_UNLIKELY(rare_->at < at_); ++rare_) {
      const size_t place = rare_->at - begin;
      if (place / kHalf % 2 == kWhich) {
        Put(to, place / kCompactRowValues * kHalf + place % kHalf);
      }
    }
  }

 private:
  using D8 = hn::Repartition<uint8_t, DF>;
  static constexpr size_t kHalf = kCompactRowValues / 2;

  // The upper or the lower bytes of values, whose `bits` are signs and mantissas.
  HWY_INLINE hn::Vec<D8> Upper(hn::Vec<D8> table, hn::Vec<D8> codes, hn::Vec<D8> bits) const {
    return hn::Or(hn::TableLookupBytes(table, codes), hn::And(bits, hn::Set(D8(), uint8_t{0x80})));
  }
  HWY_INLINE hn::Vec<D8> Lower(hn::Vec<D8> table, hn::Vec<D8> codes, hn::Vec<D8> bits) const {
    return hn::Or(hn::TableLookupBytes(table, codes), hn::And(bits, hn::Set(D8(), uint8_t{0x7F})));
  }

  HWY_INLINE void Half(hn::Vec<D8> codes, hn::Vec<D8> upper, hn::Vec<D8> lower, size_t from,
                       uint8_t* to) const {
    const D8 d;
    const auto bits = hn::LoadU(d, data_ + from);
    const auto high = Upper(upper, codes, bits), low = Lower(lower, codes, bits);
    to += from % kHalf;
    hn::StoreU(hn::InterleaveLower(d, low, high), d, to);
    hn::StoreU(hn::InterleaveUpper(d, low, high), d, to + kHalf);
  }

  HWY_INLINE void Put(char* to, size_t place) const {
    std::memcpy(to + place * sizeof(rare_->value), &rare_->value, sizeof(rare_->value));
  }

  const uint8_t* data_;
  size_t at_;  // place in the panel
  const GemmCodes* codes_;
  const GemmRare* rare_;
};

// Expands rows a few at a time, between other work; kRows divides 16.
template <size_t kRows>
class Feeder {
 public:
  Feeder(const GemmCompact& from, char* to, size_t rows) : expander_(from), to_(to), left_(rows) {}
  ~Feeder() {
    while (left_ > 0) Fetch();
  }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;
  HWY_INLINE void Fetch() {
    if (left_ == 0) return;
    expander_.template Next<kRows>(to_);
    to_ += kRows * kCompactRowValues * 2;
    left_ -= kRows;
  }

 private:
  Expander expander_;
  char* to_;
  size_t left_;
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_EXPAND_H_
