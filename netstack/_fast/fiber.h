/* Fibers: several stacks on one OS thread, switched by hand.  What a switch saves is what the calling convention says a
 * callee must save; nobody else's registers are live.  ucontext(3) serves other processors, with a system call a switch.
 *
 * Also the thread's current explorer and its planted error: initial-exec, as they are read at every step. */
#ifndef NETSTACK_FIBER_H
#define NETSTACK_FIBER_H
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static __thread __attribute__((tls_model("initial-exec"))) void *ns_explorer;
static inline void *ns_explorer_get(void) { return ns_explorer; }
static inline void ns_explorer_set(void *explorer) { ns_explorer = explorer; }

#if defined(__x86_64__)
typedef struct ns_fiber { void *sp; } ns_fiber_t;
void ns_fiber_jump(void **save, void *load) __attribute__((visibility("hidden")));
__asm__(".text\n.p2align 4\n.globl ns_fiber_jump\n.hidden ns_fiber_jump\n.type ns_fiber_jump,@function\nns_fiber_jump:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  popq %rcx\n  jmp *%rcx\n"      /* not ret: the return predictor knows nothing of other stacks */
        ".size ns_fiber_jump,.-ns_fiber_jump\n");
static inline void ns_fiber_switch(ns_fiber_t *from, ns_fiber_t *to) { ns_fiber_jump(&from->sp, to->sp); }
static inline void ns_fiber_make(ns_fiber_t *f, char *stack, size_t bytes, void (*entry)(void)) {
    void **top = (void **)((uintptr_t)(stack + bytes) & ~(uintptr_t)15);
    *--top = 0;                            /* where entry would return to; keeps the stack aligned as after a call */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = 0;
    f->sp = top;
}

#elif defined(__aarch64__)
typedef struct ns_fiber { void *sp; } ns_fiber_t;
void ns_fiber_jump(void **save, void *load) __attribute__((visibility("hidden")));
__asm__(".text\n.p2align 4\n.globl ns_fiber_jump\n.hidden ns_fiber_jump\n.type ns_fiber_jump,%function\nns_fiber_jump:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
        "  mov x2, sp\n  str x2, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n  ret\n"
        ".size ns_fiber_jump,.-ns_fiber_jump\n");
static inline void ns_fiber_switch(ns_fiber_t *from, ns_fiber_t *to) { ns_fiber_jump(&from->sp, to->sp); }
static inline void ns_fiber_make(ns_fiber_t *f, char *stack, size_t bytes, void (*entry)(void)) {
    uint64_t *frame = (uint64_t *)(((uintptr_t)(stack + bytes) & ~(uintptr_t)15) - 160);
    for (int i = 0; i < 20; i++) frame[i] = 0;
    frame[11] = (uint64_t)(uintptr_t)entry;        /* x30 */
    f->sp = frame;
}

#else
#include <ucontext.h>
typedef struct ns_fiber { ucontext_t context; } ns_fiber_t;
static inline void ns_fiber_switch(ns_fiber_t *from, ns_fiber_t *to) { swapcontext(&from->context, &to->context); }
static inline void ns_fiber_make(ns_fiber_t *f, char *stack, size_t bytes, void (*entry)(void)) {
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stack;
    f->context.uc_stack.ss_size = bytes;
    f->context.uc_link = 0;
    makecontext(&f->context, entry, 0);
}
#endif

/* A stack with a page below it that faults; NULL when there is no memory. */
static inline char *ns_stack_new(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    mprotect(p, page, PROT_NONE);
    return p + page;
}
static inline void ns_stack_free(char *stack, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (stack) munmap(stack - page, bytes + page);
}
#endif
