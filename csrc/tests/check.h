// The few lines of a test framework that the native tests need: VX_TEST registers, VX_CHECK counts, main runs.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace vx::test {

struct Case {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool add(const char* name, std::function<void()> body) {
  cases().push_back({name, std::move(body)});
  return true;
}

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

// Runs every case whose name contains argv[1] (all without it); the number of failed checks decides the exit status.
inline int run_all(int argc, char** argv) {
  int n_run = 0;
  for (const Case& c : cases()) {
    if (argc > 1 && std::string(c.name).find(argv[1]) == std::string::npos) continue;
    const int before = failures();
    try {
      c.body();
    } catch (const std::exception& e) {
      fail(c.name, 0, std::string("unexpected exception: ") + e.what());
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", c.name);
    std::fflush(stdout);
    ++n_run;
  }
  std::printf("%d cases, %d failed checks\n", n_run, failures());
  return failures() != 0 || n_run == 0;
}

}  // namespace vx::test

#define VX_TEST(name)                                                     \
  static void name();                                                     \
  static const bool name##_is_registered = ::vx::test::add(#name, &name); \
  static void name()

#define VX_CHECK(condition)                                                          \
  do {                                                                               \
    if (!(condition)) ::vx::test::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define VX_CHECK_EQ(got, expected)                                                                      \
  do {                                                                                                  \
    const auto got_ = (got);                                                                            \
    const decltype(got_) expected_ = (expected);                                                        \
    if (!(got_ == expected_))                                                                           \
      ::vx::test::fail(__FILE__, __LINE__,                                                              \
                       #got " is " + std::to_string(got_) + ", expected " + std::to_string(expected_)); \
  } while (false)

// The statement must throw Type; the body that follows it may look at the exception `error`.
#define VX_CHECK_THROWS(statement, Type, body)                                              \
  do {                                                                                      \
    bool thrown_ = false;                                                                   \
    try {                                                                                   \
      statement;                                                                            \
    } catch (const Type& error) {                                                           \
      thrown_ = true;                                                                       \
      static_cast<void>(error);                                                             \
      body;                                                                                 \
    }                                                                                       \
    if (!thrown_) ::vx::test::fail(__FILE__, __LINE__, #statement " did not throw " #Type); \
  } while (false)
