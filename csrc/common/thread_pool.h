// A pool sized by the caller: run(fn) calls fn(worker) on worker 0, the caller, and once on each of the others that
// comes before the caller is done, and returns when all that came are: nobody waits for a thread that is still waking
// up or has no core. So fn takes work from an atomic counter of its own until none is left. The first exception is
// rethrown. One run at a time.
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
  // Number of the run << 17 | whether it is open to those who come << 16 | how many workers but the caller are in it.
  std::atomic<uint64_t> state_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int)>* fn_ = nullptr;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

}  // namespace vx
