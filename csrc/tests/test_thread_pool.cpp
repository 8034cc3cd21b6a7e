// Runs of a pool: all the work is done once, whoever comes, and an exception is the caller's.
#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "common/errors.h"
#include "common/thread_pool.h"
#include "tests/check.h"

namespace {

using vx::ThreadPool;

// More workers than cores: some come late or never.
VX_TEST(every_index_is_visited_once) {
  for (int n_threads : {1, 2, 3, 16}) {
    ThreadPool pool(n_threads);
    for (int64_t n : {0, 1, 2, 7, 1000}) {
      for (int repeat = 0; repeat < 200; ++repeat) {
        std::vector<int> visits(n, 0);
        pool.for_each(n, [&](int64_t i, int worker) {
          VX_CHECK(worker >= 0 && worker < n_threads);
          ++visits[i];
        });
        VX_CHECK_EQ(std::accumulate(visits.begin(), visits.end(), int64_t{0}), n);
        for (int count : visits) VX_CHECK_EQ(count, 1);
      }
    }
  }
}

// What a worker writes is read by the caller and by another worker of the next run: no two runs overlap.
VX_TEST(runs_follow_each_other) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0), next(64, 0);
  for (int64_t run = 1; run <= 20000; ++run) {
    pool.for_each(64, [&](int64_t i, int) { next[i] = values[i * 7 % 64] + 1; });
    values.swap(next);
  }
  for (int64_t value : values) VX_CHECK_EQ(value, 20000);
}

VX_TEST(each_worker_is_in_a_run_once_at_most) {
  ThreadPool pool(8);
  for (int repeat = 0; repeat < 2000; ++repeat) {
    std::vector<std::atomic<int>> calls(8);
    pool.run([&](int worker) { calls[worker].fetch_add(1); });
    VX_CHECK_EQ(calls[0].load(), 1);
    for (const auto& count : calls) VX_CHECK(count.load() <= 1);
  }
}

// With work that lasts, everybody comes.
VX_TEST(workers_share_long_work) {
  ThreadPool pool(2);
  std::atomic<bool> other_came{false};
  pool.run([&](int worker) {
    if (worker == 1) other_came = true;
    while (!other_came) std::this_thread::yield();
  });
  VX_CHECK(other_came);
}

VX_TEST(the_first_exception_is_thrown_and_the_pool_lives_on) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 500; ++repeat) {
    VX_CHECK_THROWS(pool.for_each(50,
                                  [&](int64_t i, int) {
                                    if (i == 20) throw vx::ArgumentError("[here] twenty");
                                  }),
                    vx::ArgumentError, {});
    std::atomic<int64_t> sum{0};
    pool.for_each(50, [&](int64_t i, int) { sum += i; });
    VX_CHECK_EQ(sum.load(), 1225);
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
