// With libFuzzer: fills the corpus directory that it is given with the seeds before it starts.
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz/target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::string directory = (*argv)[i];
    if (!std::filesystem::is_directory(directory)) continue;
    int n = 0;
    for (const vx::fuzz::Input& input : vx::fuzz::seeds())
      std::ofstream(directory + "/seed-" + std::to_string(n++), std::ios::binary)
          .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    break;
  }
  return 0;
}
