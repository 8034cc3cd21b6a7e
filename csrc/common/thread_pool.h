// A pool sized by the caller: run(fn) calls fn(worker) once on every worker (worker 0 is the caller) and returns when
// all are done. The first exception is rethrown. One run at a time; work is shared by the callers' own atomic counters.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vx {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  void run(const std::function<void(int worker)>& fn);

  // Calls fn(i, worker) for i in [0, n), shared dynamically in ascending order.
  template <class F>
  void for_each(int64_t n, F&& fn) {
    if (size() == 1 || n <= 1) {
      for (int64_t i = 0; i < n; ++i) fn(i, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int worker) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) fn(i, worker);
    });
  }

 private:
  void loop(int worker);
  void call(int worker) noexcept;

  std::mutex mutex_, run_mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int)>* fn_ = nullptr;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

}  // namespace vx
