// Drives a fuzz target where libFuzzer is not at hand, and takes libFuzzer's options: run n mutates a seed in a way
// that follows from (seed, n) and the seeds alone.
//
//   fuzz_tile [-max_total_time=SECONDS] [-runs=N] [-seed=K] [-first=N] [DIRECTORY]     files there are seeds too
//   fuzz_tile FILE...                                                                 runs these inputs
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "fuzz/target.h"

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

using vx::fuzz::Input;
using Random = std::mt19937_64;

constexpr unsigned kHangSeconds = 300;

uint64_t g_seed = 1, g_run = 0;
const Input* g_input = nullptr;

// Keeps the input that a run died of.
void keep_input() {
  if (g_input == nullptr) return;
  const std::string name = "crash-" + std::to_string(g_seed) + "-" + std::to_string(g_run);
  std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char*>(g_input->data()), static_cast<std::streamsize>(g_input->size()));
  std::fprintf(stderr, "fuzz: run %llu with -seed=%llu failed; its input is in ./%s\n",
               static_cast<unsigned long long>(g_run), static_cast<unsigned long long>(g_seed), name.c_str());
  g_input = nullptr;
}

void on_signal(int signal) {
  if (signal == SIGALRM) std::fprintf(stderr, "fuzz: not true: an input takes less than %u s\n", kHangSeconds);
  keep_input();
  std::_Exit(1);
}

// Where structure lies more often than not: near the ends.
size_t position(const Input& input, Random& random) {
  const size_t n = input.size();
  const size_t near_end = std::min<size_t>(n, 96);
  switch (random() % 4) {
    case 0:
      return random() % near_end;
    case 1:
      return n - 1 - random() % near_end;
    default:
      return random() % n;
  }
}

constexpr std::array<uint64_t, 12> kEdges = {0,      1,       7,        63,         64,         127,
                                             0xFFFF, 1 << 20, 1u << 31, 0xFFFFFFFF, 1ull << 63, ~0ull};

void mutate(Input* input, const Input& other, Random& random) {
  if (input->empty()) input->push_back(0);
  Input& in = *input;
  const size_t at = position(in, random);
  const size_t n = std::min<size_t>(in.size() - at, 1 + random() % (random() % 4 ? 16 : 1024));
  const auto here = in.begin() + static_cast<int64_t>(at);
  switch (random() % 9) {
    case 0:
      in[at] ^= static_cast<uint8_t>(1 << random() % 8);
      break;
    case 1:
      in[at] = static_cast<uint8_t>(random());
      break;
    case 2: {  // an edge value of 1, 2, 4 or 8 bytes, or one more or less than what is there
      uint64_t value = 0;
      const size_t width = std::min<size_t>(in.size() - at, size_t{1} << random() % 4);
      std::memcpy(&value, &in[at], width);
      value = random() % 2 ? kEdges[random() % kEdges.size()] : value + (random() % 2 ? 1 : ~0ull);
      std::memcpy(&in[at], &value, width);
      break;
    }
    case 3:
      std::fill(here, here + static_cast<int64_t>(n), random() % 2 ? 0 : 255);
      break;
    case 4:
      in.erase(here, here + static_cast<int64_t>(n));
      break;
    case 5: {
      const Input copy(here, here + static_cast<int64_t>(n));
      in.insert(in.begin() + static_cast<int64_t>(position(in, random)), copy.begin(), copy.end());
      break;
    }
    case 6: {
      const size_t to = random() % (in.size() - n + 1);
      std::memmove(&in[to], &in[at], n);
      break;
    }
    case 7: {  // bytes of another seed at the same place
      for (size_t i = at; i < at + n && i < other.size(); ++i) in[i] = other[i];
      break;
    }
    default:
      in.resize(at);
      break;
  }
}

Input make_input(const std::vector<Input>& seeds, uint64_t seed, uint64_t run) {
  Random random(seed * 0x9E3779B97F4A7C15ull + run);
  Input input = seeds[random() % seeds.size()];
  const Input& other = seeds[random() % seeds.size()];
  for (uint64_t n = 1 + random() % 6; n > 0; --n) mutate(&input, other, random);
  return input;
}

void run(const Input& input) {
  // A copy of exactly this size, so that a sanitizer sees reads past its end.
  const Input exact(input.begin(), input.end());
  g_input = &exact;
  alarm(kHangSeconds);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  alarm(0);
  g_input = nullptr;
}

Input read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "fuzz: cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return Input(std::istreambuf_iterator<char>(file), {});
}

struct Options {
  double seconds = 0;  // 0: no limit
  uint64_t n_runs = ~0ull, first = 0;
  std::vector<std::filesystem::path> paths;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i], name = text.substr(0, text.find('='));
    const char* value = argv[i] + std::min(text.size(), name.size() + 1);
    if (name == "-max_total_time")
      options.seconds = std::atof(value);
    else if (name == "-runs")
      options.n_runs = std::strtoull(value, nullptr, 10);
    else if (name == "-seed")
      g_seed = std::strtoull(value, nullptr, 10);
    else if (name == "-first")
      options.first = std::strtoull(value, nullptr, 10);
    else if (text[0] != '-')
      options.paths.push_back(text);
    else
      std::fprintf(stderr, "fuzz: only libFuzzer knows %s\n", argv[i]), std::exit(2);
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGABRT, on_signal);
  std::signal(SIGALRM, on_signal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_input);
  const Options options = parse(argc, argv);
  std::vector<Input> seeds = vx::fuzz::seeds();
  bool only_files = !options.paths.empty();
  for (const auto& path : options.paths) {
    if (!std::filesystem::is_directory(path)) {
      run(read_file(path));
      continue;
    }
    only_files = false;
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files) seeds.push_back(read_file(file));
  }
  if (only_files) return 0;
  for (const Input& input : seeds) run(input);
  const auto start = std::chrono::steady_clock::now();
  const auto has_time = [&] {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return options.seconds == 0 || elapsed.count() < options.seconds;
  };
  for (g_run = options.first; g_run - options.first < options.n_runs && has_time(); ++g_run)
    run(make_input(seeds, g_seed, g_run));
  std::printf("%zu seeds and %llu mutations of them, none failed\n", seeds.size(),
              static_cast<unsigned long long>(g_run - options.first));
  return 0;
}
