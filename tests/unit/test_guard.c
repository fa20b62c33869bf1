/* Asserts that fail inside a guarded call (guard.c): the call ends, the process goes on. */
#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "formats/cursor.h"
#include "libckpt/guard.h"

#include "check.h"

static long cases;

static enum ckpt_status good(void *arg, struct ckpt_err *err)
{
    ++*(int *)arg;
    return *(int *)arg > 1 ? err_set(err, CKPT_FULL, "%d", *(int *)arg) : CKPT_OK;
}

/* A real one, of formats/: a string without room for its end. */
static enum ckpt_status bad(void *arg, struct ckpt_err *err)
{
    struct cursor c = cursor_over("\1\0x", 3);
    char text[1];
    err_set(err, CKPT_FULL, "half done");
    cursor_str(&c, text, *(int *)arg ? sizeof(text) : 0);
    return CKPT_OK;
}

static enum ckpt_status nested(void *arg, struct ckpt_err *err)
{
    struct ckpt_err inner = { 0 };
    CHECK_EQ(guard_run(bad, arg, &inner), CKPT_BUG);
    assert(*(int *)arg == 1); /* the outer guard's */
    return err_set(err, CKPT_BUSY, "not reached");
}

static void *in_thread(void *arg)
{
    struct ckpt_err err = { 0 };
    int zero = 0;
    for (int i = 0; i < 1000; i++) {
        err.status = CKPT_OK;
        CHECK_EQ(guard_run(bad, &zero, &err), CKPT_BUG);
    }
    return arg;
}

int main(void)
{
    struct ckpt_err err = { 0 };
    int n = 0;
    CHECK_OK(guard_run(good, &n, &err));
    CHECK_EQ(guard_run(good, &n, &err), CKPT_FULL);
    CHECK_EQ(n, 2);
    CHECK_STR(err_text(&err), "2");
    n = 0;
    CHECK_EQ(guard_run(bad, &n, &err), CKPT_BUG);
    CHECK(strstr(err_text(&err), "cursor.c:") && strstr(err_text(&err), "cap > 0"));
    CHECK_EQ(guard_run(nested, &n, &err), CKPT_BUG);
    CHECK(strstr(err_text(&err), "== 1"));
    n = 0;
    CHECK_OK(guard_run(good, &n, &err));
    /* Each thread has its own way back. */
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, in_thread, NULL), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(t[i], NULL), 0);
    /* Outside of a guarded call an assert is an assert. */
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        n = 0;
        signal(SIGABRT, SIG_DFL);
        (void)bad(&n, &err);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    cases += 6;
    TEST_CASES(cases);
    return 0;
}
