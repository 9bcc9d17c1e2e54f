// Runs the body of a Metal kernel on a CPU: every thread of a threadgroup is a coroutine that stops
// at barriers and simdgroup operations; between two stops threads run in a random order, so that a
// missing barrier shows as a result that depends on the seed. Stricter than a GPU: a barrier or
// simdgroup operation that not all threads reach, and access outside a buffer, are errors.
// Kernels may declare threadgroup arrays but no pointers into them.
#pragma once

#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

using uint = uint32_t;
using ushort = uint16_t;
using uchar = uint8_t;

extern "C" char __start_threadgroup_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_threadgroup_memory[] __attribute__((weak, visibility("hidden")));

// ---- types -------------------------------------------------------------------------------------

template <typename To, typename From>
inline To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Converts to float by itself, from float only when asked to, and has no arithmetic of its own:
// kernels compute in float.
struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float value) {
    uint u = as_type<uint>(value);
    bits = value != value ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  }
  explicit bfloat16_t(int value) : bfloat16_t(float(value)) {}
  operator float() const { return as_type<float>(uint(bits) << 16); }
};
bfloat16_t operator+(bfloat16_t, bfloat16_t) = delete;
bfloat16_t operator-(bfloat16_t, bfloat16_t) = delete;
bfloat16_t operator*(bfloat16_t, bfloat16_t) = delete;
bfloat16_t operator/(bfloat16_t, bfloat16_t) = delete;

struct half {  // read only: kernels decode with it
  uint16_t bits;
  operator float() const {
    int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
        : exponent ? ldexpf(1024 + mantissa, exponent - 25)
                   : ldexpf(mantissa, -24);
    return bits & 0x8000 ? -value : value;
  }
};
using float16_t = half;
struct half2 { half x, y; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { uint x, y; };
struct uint3 { uint x, y, z; };
struct uint4 { uint x, y, z, w; };

// An array of fewer than eight elements lies in Metal's constant memory: no device pointer to it.
template <typename T>
struct Constant {
  const T* data;
  const T& operator[](size_t i) const { return data[i]; }
};

// ---- threads -----------------------------------------------------------------------------------

namespace shim {

constexpr int SIMD = 32;
constexpr size_t STACK = 64 << 10;
constexpr size_t SLOT = 16;  // bytes of the largest value a simdgroup operation takes
constexpr size_t THREADGROUP_LIMIT = 32 << 10;

enum class Stop { none, simd, simd_barrier, barrier, done };
using Combine = void (*)(const char (*given)[SLOT], char (*results)[SLOT], int lanes, const int*);

struct Thread {
  ucontext_t context;
  jmp_buf resume;
  bool started = false;
  Stop stop = Stop::none;
  int line = 0;
  uint index = 0;
};

struct Simdgroup {
  char given[SIMD][SLOT];
  char results[SIMD][SLOT];
  int argument[SIMD];
  int waiting = 0, size = 0;
};

inline std::vector<Thread> threads;
inline std::vector<Simdgroup> simdgroups;
inline std::vector<uint> ready;
inline Thread* running;
inline jmp_buf scheduler;
inline void (*body)(uint);
inline char message[256];
inline uint64_t random_state;

inline uint64_t draw() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

[[noreturn]] inline void fail(const char* what, int line) {
  snprintf(message, sizeof message, "%s (line %d of the kernel)", what, line);
  _longjmp(scheduler, 2);
}

__attribute__((noinline)) inline void pause(Stop stop, int line) {
  Thread& self = *running;
  self.stop = stop;
  self.line = line;
  if (!_setjmp(self.resume)) _longjmp(scheduler, 1);
  asm volatile("" ::: "memory");
}

inline void entry() {
  for (;;) {
    body(running->index);
    pause(Stop::done, 0);
  }
}

// All threads of the simdgroup have stopped at one operation: checks that, and lets them go on.
inline void release(uint first, Simdgroup& group) {
  for (int lane = 1; lane < group.size; lane++) {
    Thread &a = threads[first], &b = threads[first + lane];
    if (a.stop != b.stop || a.line != b.line)
      fail("threads of a simdgroup are at different operations", b.line);
  }
  group.waiting = 0;
  for (int lane = 0; lane < group.size; lane++) ready.push_back(first + lane);
}

template <typename T>
inline T simd(T value, int argument, Combine combine, int line) {
  static_assert(sizeof(T) <= SLOT);
  uint index = running->index;
  Simdgroup& group = simdgroups[index / SIMD];
  int lane = index % SIMD;
  memcpy(group.given[lane], &value, sizeof(T));
  group.argument[lane] = argument;
  if (++group.waiting == group.size) {
    // Everybody has given a value: the results stay until everybody has given the next one.
    combine(group.given, group.results, group.size, group.argument);
    running->stop = Stop::simd;
    running->line = line;
    release(index - lane, group);
  }
  pause(Stop::simd, line);
  T result;
  memcpy(&result, group.results[lane], sizeof(T));
  return result;
}

inline void run_threads() {
  uint count = threads.size(), done = 0, at_barrier = 0;
  while (done < count) {
    if (ready.empty()) {
      int line = 0;
      for (Thread& thread : threads)
        if (thread.stop != Stop::done) line = thread.line;
      fail("not all threads reach a barrier or simdgroup operation", line);
    }
    size_t pick = draw() % ready.size();
    Thread& next = threads[ready[pick]];
    ready[pick] = ready.back();
    ready.pop_back();
    running = &next;
    int code = _setjmp(scheduler);
    if (code == 2) return;
    if (code == 0) {
      if (next.started) _longjmp(next.resume, 1);
      next.started = true;
      setcontext(&next.context);
    }
    Thread& stopped = *running;
    if (stopped.stop == Stop::done) done++;
    if (stopped.stop == Stop::simd_barrier) {
      uint lane = stopped.index % SIMD;
      Simdgroup& group = simdgroups[stopped.index / SIMD];
      if (++group.waiting == group.size) release(stopped.index - lane, group);
    }
    if (stopped.stop == Stop::barrier && ++at_barrier == count) {
      for (Thread& thread : threads) {
        if (thread.line != stopped.line) fail("threads are at different barriers", thread.line);
        ready.push_back(thread.index);
      }
      at_barrier = 0;
    }
  }
}

// ---- memory ------------------------------------------------------------------------------------

// A copy of a buffer between two ranges that cannot be touched; its end is at the second one, but for
// the padding to 16 bytes. Padding, and what a kernel has not written, are 0xff: NaN.
constexpr size_t FENCE = 64 << 20;

struct Guarded {
  char* map = nullptr;
  char* data = nullptr;
  size_t bytes = 0, mapped = 0;

  Guarded(const void* content, size_t size) : bytes(size) {
    size_t page = sysconf(_SC_PAGESIZE), padded = (size + 15) / 16 * 16;
    size_t inner = (padded + page - 1) / page * page;
    mapped = inner + 2 * FENCE;
    map = (char*)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    mprotect(map + FENCE, inner, PROT_READ | PROT_WRITE);
    memset(map + FENCE, 0xff, inner);
    data = map + FENCE + inner - padded;
    memcpy(data, content, size);
  }
  bool padding_intact() const {
    for (size_t i = bytes; i < (bytes + 15) / 16 * 16; i++)
      if (data[i] != char(0xff)) return false;
    return true;
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(map, mapped); }
};

inline void on_bad_access(int) { fail("access outside a buffer", running->line); }

// ---- a launch ----------------------------------------------------------------------------------

inline uint3 grid, group, at;

// Runs `kernel(index in the threadgroup)` for every thread; 0, or 1 with a message.
inline int launch(const uint* grid_size, const uint* group_size, uint64_t seed, void (*kernel)(uint)) {
  grid = {grid_size[0], grid_size[1], grid_size[2]};
  group = {group_size[0], group_size[1], group_size[2]};
  body = kernel;
  random_state = seed * 0x9e3779b97f4a7c15u + 1;
  uint count = group.x * group.y * group.z;
  size_t memory = __stop_threadgroup_memory - __start_threadgroup_memory;
  if (memory > THREADGROUP_LIMIT) {
    snprintf(message, sizeof message, "%zu bytes of threadgroup memory", memory);
    return 1;
  }
  threads = std::vector<Thread>(count);
  simdgroups = std::vector<Simdgroup>((count + SIMD - 1) / SIMD);
  char* stacks = (char*)mmap(nullptr, count * STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  for (uint i = 0; i < count; i++) {
    getcontext(&threads[i].context);
    threads[i].context.uc_stack.ss_sp = stacks + i * STACK;
    threads[i].context.uc_stack.ss_size = STACK;
    threads[i].context.uc_link = nullptr;
    threads[i].index = i;
    makecontext(&threads[i].context, entry, 0);
  }
  static char signal_stack[64 << 10];
  stack_t alternate{}, old_stack;
  alternate.ss_sp = signal_stack;
  alternate.ss_size = sizeof signal_stack;
  sigaltstack(&alternate, &old_stack);
  struct sigaction action{}, old_segv, old_bus;
  action.sa_handler = on_bad_access;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);

  uint groups[3] = {grid.x / group.x, grid.y / group.y, grid.z / group.z};
  uint total = groups[0] * groups[1] * groups[2], shift = draw() % total;
  message[0] = 0;
  for (uint i = 0; i < total && !message[0]; i++) {
    uint linear = (i + shift) % total;
    at = {linear % groups[0], linear / groups[0] % groups[1], linear / groups[0] / groups[1]};
    memset(__start_threadgroup_memory, 0xff, memory);
    ready.clear();
    for (uint t = 0; t < count; t++) {
      ready.push_back(t);
      Simdgroup& simdgroup = simdgroups[t / SIMD];
      simdgroup.waiting = 0;
      simdgroup.size = t % SIMD + 1;
    }
    run_threads();
  }
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  sigaltstack(&old_stack, nullptr);
  munmap(stacks, count * STACK);
  return message[0] != 0;
}

}  // namespace shim

// ---- what kernels call -------------------------------------------------------------------------

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

inline void threadgroup_barrier(mem_flags, int line = __builtin_LINE()) {
  shim::pause(shim::Stop::barrier, line);
}
inline void simdgroup_barrier(mem_flags, int line = __builtin_LINE()) {
  shim::pause(shim::Stop::simd_barrier, line);
}

#define SHIM_REDUCE(name, expression)                                                        \
  template <typename T>                                                                      \
  inline T name(T value, int line = __builtin_LINE()) {                                      \
    return shim::simd<T>(value, 0, [](const char (*given)[shim::SLOT],                       \
        char (*results)[shim::SLOT], int lanes, const int*) {                                \
      T a, b;                                                                                \
      memcpy(&a, given[0], sizeof(T));                                                       \
      for (int lane = 1; lane < lanes; lane++) {                                             \
        memcpy(&b, given[lane], sizeof(T));                                                  \
        a = expression;                                                                      \
      }                                                                                      \
      for (int lane = 0; lane < lanes; lane++) memcpy(results[lane], &a, sizeof(T));         \
    }, line);                                                                                \
  }
SHIM_REDUCE(simd_sum, a + b)
SHIM_REDUCE(simd_max, a > b ? a : b)
SHIM_REDUCE(simd_min, a < b ? a : b)
#undef SHIM_REDUCE

// A value from a lane that does not exist is undefined on a GPU; here it is 0xff.
#define SHIM_SHUFFLE(name, source_lane)                                                      \
  template <typename T>                                                                      \
  inline T name(T value, ushort argument, int line = __builtin_LINE()) {                     \
    return shim::simd<T>(value, argument, [](const char (*given)[shim::SLOT],                \
        char (*results)[shim::SLOT], int lanes, const int* arguments) {                      \
      for (int lane = 0; lane < lanes; lane++) {                                             \
        int argument = arguments[lane], from = source_lane;                                  \
        if (from >= 0 && from < lanes) memcpy(results[lane], given[from], sizeof(T));        \
        else memset(results[lane], 0xff, sizeof(T));                                         \
      }                                                                                      \
    }, line);                                                                                \
  }
SHIM_SHUFFLE(simd_shuffle, argument)
SHIM_SHUFFLE(simd_broadcast, argument)
SHIM_SHUFFLE(simd_shuffle_xor, lane ^ argument)
SHIM_SHUFFLE(simd_shuffle_down, lane + argument)
SHIM_SHUFFLE(simd_shuffle_up, lane - argument)
#undef SHIM_SHUFFLE

namespace metal {

using ::simd_sum, ::simd_max, ::simd_min, ::simd_shuffle, ::simd_broadcast, ::simd_shuffle_xor;
using ::simd_shuffle_down, ::simd_shuffle_up;

inline float exp(float x) { return expf(x); }
inline float exp2(float x) { return exp2f(x); }
inline float log(float x) { return logf(x); }
inline float log2(float x) { return log2f(x); }
inline float sqrt(float x) { return sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float abs(float x) { return fabsf(x); }
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline uint max(uint a, uint b) { return a > b ? a : b; }
inline uint min(uint a, uint b) { return a < b ? a : b; }

namespace precise {
inline float cos(float x) { return cosf(x); }
inline float sin(float x) { return sinf(x); }
inline float exp(float x) { return expf(x); }
inline float log(float x) { return logf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
}  // namespace precise

}  // namespace metal

#define device
#define constant
#define thread
#define threadgroup static __attribute__((section("threadgroup_memory")))
#define METAL_FUNC inline
