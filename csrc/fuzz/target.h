// What a fuzz target defines and what drives it: libFuzzer, or driver.cpp where there is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace vx::fuzz {

using Input = std::vector<uint8_t>;

// Inputs to start from; each must pass.
std::vector<Input> seeds();

// Takes values off the front of an input; zeros when it is used up.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  size_t left() const { return left_; }
  const uint8_t* data() const { return data_; }
  template <class T>
  T take() {
    T value{};
    const size_t n = left_ < sizeof value ? left_ : sizeof value;
    if (n > 0) std::memcpy(&value, data_, n);
    skip(n);
    return value;
  }
  void skip(size_t n) {
    data_ += n;
    left_ -= n;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

template <class T>
void put(Input* out, T value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out->insert(out->end(), bytes, bytes + sizeof value);
}

inline void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: not true: %s\n", what);
  std::abort();
}

}  // namespace vx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
