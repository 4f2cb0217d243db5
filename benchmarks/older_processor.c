/* An older processor for one program, on Linux and x86: CPUID faults, and is answered without
 * AVX-512, VNNI or AMX, so that every library picks what it would run on such a machine.
 *
 *   cc -O2 -shared -fPIC -o older.so older_processor.c
 *   LD_PRELOAD=./older.so OLDER_PROCESSOR=avx2 python …      (or avx512, avx512-vnni)
 *
 * Needs a processor that can fault on CPUID (`cpuid_fault` in /proc/cpuinfo). Clock, caches and
 * memory stay this machine's: what is slower for want of an instruction shows, what is slower on an
 * older machine besides does not.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif

enum { AMX = 1, VNNI = 2, AVX512 = 4 };
static int without;

static void mask(uint32_t leaf, uint32_t part, uint32_t r[4]) {
  if (leaf != 7) return;
  if (part == 0) {
    if (without & AMX) r[3] &= ~(1u << 22 | 1u << 24 | 1u << 25);
    if (without & VNNI) r[2] &= ~(1u << 11);
    if (without & AVX512) {
      r[1] &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
      r[2] &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
    }
    /* FP16, 4VNNIW, 4FMAPS, VP2INTERSECT: no machine has them without what is left out here */
    r[3] &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 23);
  } else if (part == 1) {
    if (without & AMX) r[0] &= ~(1u << 21);
    if (without & VNNI) {
      r[0] &= ~(1u << 4 | 1u << 5 | 1u << 23); /* AVX-VNNI, AVX512-BF16, AVX-IFMA */
      r[3] &= ~(1u << 4 | 1u << 5 | 1u << 10);
    } else {
      r[0] &= ~(1u << 5);
    }
  }
}

static void fault(int signal, siginfo_t *about, void *context) {
  (void)about;
  greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)regs[REG_RIP];
  if (!(code[0] == 0x0f && code[1] == 0xa2)) { /* a real fault */
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(signal, &plain, NULL);
    return;
  }
  uint32_t leaf = (uint32_t)regs[REG_RAX], part = (uint32_t)regs[REG_RCX], r[4];
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(part));
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
  mask(leaf, part, r);
  regs[REG_RAX] = r[0], regs[REG_RBX] = r[1], regs[REG_RCX] = r[2], regs[REG_RDX] = r[3];
  regs[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
  const char *kind = getenv("OLDER_PROCESSOR");
  if (kind == NULL) return;
  if (!strcmp(kind, "avx2")) without = AMX | VNNI | AVX512;
  else if (!strcmp(kind, "avx512")) without = AMX | VNNI;
  else if (!strcmp(kind, "avx512-vnni")) without = AMX;
  else { fprintf(stderr, "OLDER_PROCESSOR=%s: avx2, avx512 or avx512-vnni\n", kind); _exit(2); }
  struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  if (sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
    fprintf(stderr, "this processor cannot fault on CPUID\n");
    _exit(2);
  }
}
