/* ckptd-metrics: what `ckptd --metrics` starts.  The listener is descriptor 3; the argument is
 * ckptd's socket.  It has nothing of ckptd's but that socket, ends with it, and is two
 * processes: one serves, the other starts it again should it die. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "ckptd/log.h"
#include "ckptd/metrics_http.h"

#define LISTEN_FD 3
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_MAX RLIM_INFINITY /* their shadow is large */
#else
#define MEMORY_MAX (UINT64_C(1) << 30) /* address space: libraries and one page of status */
#endif
#define FILES_MAX 128

static void limit(int what, uint64_t max)
{
    const struct rlimit r = { .rlim_cur = max, .rlim_max = max };
    (void)setrlimit(what, &r);
}

/* Dies with its parent; false if that is dead already. */
static bool bound_to(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

static int serve(const char *socket)
{
    struct ckpt_err err = { 0 };
    limit(RLIMIT_AS, MEMORY_MAX);
    limit(RLIMIT_NOFILE, FILES_MAX);
    enum ckpt_status st = metrics_serve(LISTEN_FD, socket, &err);
    log_error("metrics are not served", "status=%s why=\"%s\"", status_name(st), err_text(&err));
    return 1;
}

int main(int argc, char *argv[])
{
    if (argc != 3) {
        fprintf(stderr, "usage: ckptd-metrics SOCKET KEEPER: started by ckptd --metrics\n");
        return 2;
    }
    if (!bound_to((pid_t)strtol(argv[2], NULL, 10)))
        return 0;
    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    if (nice(10) == -1 && errno != 0)
        log_warn("metrics cannot give way", "why=\"%m\"");
    for (pid_t self = getpid();;) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0)
            _exit(bound_to(self) ? serve(argv[1]) : 0);
        if (pid > 0 && waitpid(pid, &status, 0) == pid)
            log_error("metrics died and start again", "status=%d", status);
        nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
    }
}
