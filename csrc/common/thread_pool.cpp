#include "common/thread_pool.h"

#include <chrono>

#include "common/errors.h"

namespace vx {
namespace {

// Ops of one decoding step follow each other within microseconds: spinning this long saves a futex round trip each.
constexpr auto kSpin = std::chrono::microseconds(40);

constexpr int kNumberShift = 17;
constexpr uint64_t kOpen = uint64_t{1} << 16, kInside = kOpen - 1;

uint64_t number(uint64_t state) { return state >> kNumberShift; }

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <class Done>
bool spin_until(Done done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 1 || n_threads > 1024)
    throw ArgumentError("[threads] must be between 1 and 1024, got " + std::to_string(n_threads));
  threads_.reserve(n_threads - 1);
  for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i] { loop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& t : threads_) t.join();
}

void ThreadPool::call(int worker) noexcept {
  try {
    (*fn_)(worker);
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::loop(int worker) {
  uint64_t last = 0;  // run that this worker was in
  for (;;) {
    const auto may_come = [&](uint64_t state) { return (state & kOpen) != 0 && number(state) != last; };
    const auto called = [&] { return may_come(state_.load(std::memory_order_acquire)) || stop_.load(); };
    if (!spin_until(called)) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, called);
    }
    if (stop_) return;
    uint64_t state = state_.load(std::memory_order_acquire);
    while (may_come(state) && !state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
    }
    if (!may_come(state)) continue;  // too late
    last = number(state);
    call(worker);
    if ((state_.fetch_sub(1, std::memory_order_acq_rel) & (kOpen | kInside)) == 1) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

void ThreadPool::run(const std::function<void(int)>& fn) {
  std::lock_guard one_run(run_mutex_);
  {
    std::lock_guard lock(mutex_);
    fn_ = &fn;
    error_ = nullptr;
    state_.store((number(state_.load(std::memory_order_relaxed)) + 1) << kNumberShift | kOpen,
                 std::memory_order_release);
  }
  wake_.notify_all();
  call(0);
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  auto finished = [&] { return (state_.load(std::memory_order_acquire) & kInside) == 0; };
  if (!spin_until(finished)) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, finished);
  }
  std::exception_ptr error;
  {
    std::lock_guard lock(mutex_);
    fn_ = nullptr;
    error = error_;
    error_ = nullptr;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace vx
