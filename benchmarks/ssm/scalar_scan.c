// The selective scan as a plain C loop with expf, the way CPU engines without a vector form of it run it: a channel after
// the other, shared among threads.
#include <math.h>
#include <pthread.h>
#include <stdint.h>

typedef struct {
  int64_t channels, length, n_state, first, last;
  const float *u, *delta, *A, *B, *C, *D, *z, *delta_bias;  // u, delta, z: [channel][time]; A: [channel][state];
  float *state, *y;                                         // B, C: [time][state]; state as A, y as u
} Share;

static void* run(void* argument) {
  const Share* s = argument;
  for (int64_t d = s->first; d < s->last; ++d) {
    const float* A = s->A + d * s->n_state;
    float* h = s->state + d * s->n_state;
    for (int64_t n = 0; n < s->n_state; ++n) h[n] = 0.0f;
    for (int64_t t = 0; t < s->length; ++t) {
      const float *B = s->B + t * s->n_state, *C = s->C + t * s->n_state;
      const float u = s->u[d * s->length + t], z = s->z[d * s->length + t];
      const float raw = s->delta[d * s->length + t] + s->delta_bias[d];
      const float dt = raw > 20.0f ? raw : log1pf(expf(raw));
      float sum = 0.0f;
      for (int64_t n = 0; n < s->n_state; ++n) {
        h[n] = h[n] * expf(dt * A[n]) + dt * u * B[n];
        sum += h[n] * C[n];
      }
      s->y[d * s->length + t] = (sum + s->D[d] * u) * (z / (1.0f + expf(-z)));
    }
  }
  return 0;
}

// Returns 0, or the error of starting a thread. n_threads: 1 to 64.
int scalar_scan(int64_t channels, int64_t length, int64_t n_state, const float* u, const float* delta, const float* A,
                const float* B, const float* C, const float* D, const float* z, const float* delta_bias, float* state,
                float* y, int n_threads) {
  Share shares[64];
  pthread_t threads[64];
  int started = 0, error = 0;
  for (int i = 0; i < n_threads; ++i) {
    shares[i] = (Share){channels, length, n_state, channels * i / n_threads, channels * (i + 1) / n_threads,
                        u, delta, A, B, C, D, z, delta_bias, state, y};
    if (i == n_threads - 1) {
      run(&shares[i]);
    } else {
      error = pthread_create(&threads[i], 0, run, &shares[i]);
      if (error) break;
      ++started;
    }
  }
  for (int i = 0; i < started; ++i) pthread_join(threads[i], 0);
  return error;
}
