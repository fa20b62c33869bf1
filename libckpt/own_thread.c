/* See own_thread.h. */
#include "libckpt/own_thread.h"

#include <signal.h>

#include "formats/base.h"

int own_thread_start(pthread_t *ret, void *(*body)(void *arg), void *arg)
{
    /* The trainer's signals are not ours, but what this thread's own instructions raise is: a
     * buffer may be a file that became shorter.  Blocked, it would kill past the handler. */
    static const int raised[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t mask, old;
    pthread_t thread;
    sigfillset(&mask);
    for (size_t i = 0; i < ARRAY_COUNT(raised); i++)
        sigdelset(&mask, raised[i]);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
    int e = pthread_create(&thread, NULL, body, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!e && ret)
        *ret = thread;
    else if (!e)
        pthread_detach(thread);
    return e;
}
