/* Tasks: coroutines beside the workers, for a crew's jobs and an operator's commands.  A task
 * gives the turn back wherever it waits, and may never get it again. */
#include <sys/mman.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

#include "fiber.h"

#define TASKS_MAX  512
#define TASK_STACK (UINT64_C(1) << 20)

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static void clean_stack(void *stack)
{
    __asan_unpoison_memory_region(stack, TASK_STACK);
}
#else
static void clean_stack(void *stack)
{
    (void)stack;
}
#endif

static struct task {
    bool used;
    uint64_t number;
    uint32_t node;
    void (*main)(void *arg);
    void *arg;
    struct fiber fiber;
    void *stack; /* stays with the place in the table */
} tasks[TASKS_MAX];
static uint32_t task_count;
static uint64_t numbers;
static struct task *current;

void sim_tasks_reset(void)
{
    for (uint32_t i = 0; i < task_count; i++)
        tasks[i].used = false;
    task_count = 0;
    numbers = 0;
}

static void task_main(void)
{
    struct task *t = current;
    t->main(t->arg);
    t->used = false;
    fiber_yield(&t->fiber);
}

static void go(struct task *t)
{
    current = t;
    sim_current = &sim_nodes[t->node];
    fiber_go(&t->fiber);
    sim_current = NULL;
    current = NULL;
}

static void make_fiber(struct task *t)
{
    if (!t->stack)
        t->stack =
            mmap(NULL, TASK_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(t->stack != MAP_FAILED);
    clean_stack(t->stack);
    fiber_make(&t->fiber, t->stack, TASK_STACK, task_main);
}

uint32_t sim_task_start(uint32_t node, void (*run)(void *arg), void *arg)
{
    uint32_t i = 0;
    while (i < task_count && tasks[i].used)
        i++;
    CHECK(i < TASKS_MAX && !current);
    task_count += i == task_count;
    struct task *t = &tasks[i];
    t->used = true;
    t->number = ++numbers;
    t->node = node;
    t->main = run;
    t->arg = arg;
    make_fiber(t);
    sim_after(0, EV_TASK, i, t->number);
    return i;
}

void sim_task_resume(uint32_t task, uint64_t number)
{
    struct task *t = &tasks[task];
    if (t->used && t->number == number)
        go(t);
}

void sim_task_kill(uint32_t task)
{
    tasks[task].used = false;
}

void *sim_task_arg(void)
{
    return current ? current->arg : NULL;
}

bool sim_in_task(void)
{
    return current != NULL;
}

void sim_nap(int64_t ns)
{
    struct task *t = current;
    CHECK(t);
    sim_after(ns, EV_TASK, (uint32_t)(t - tasks), t->number);
    fiber_yield(&t->fiber);
}

/* ---- what waits, or would start a thread ---- */

int __wrap_nanosleep(const struct timespec *ts, struct timespec *rest)
{
    (void)rest;
    if (current)
        sim_nap(ts->tv_sec * SIM_S + ts->tv_nsec);
    return 0;
}

/* There are none: whoever asks for one does its work himself. */
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
    (void)ret;
    (void)attr;
    (void)run;
    (void)arg;
    return EAGAIN;
}
