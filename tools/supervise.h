/* Runs a command, passes signals on to it, and sees to it that nothing of it is left when
 * it has ended.
 *
 * What belongs to one start of the command is known by its environment: every process
 * that inherited CKPT_LAUNCH=<token>, wherever it hangs in the tree and whatever group or
 * session it made for itself.  ckptd is spared: it may hold saves of the command that are
 * still on their way to the disk.
 *
 * Signals of the caller are blocked from init to fini and read from a descriptor.  One
 * supervisor a process; not for threads. */
#pragma once

#include <signal.h>
#include <sys/types.h>

#include "formats/base.h"

struct supervisor {
    int signal_fd;
    sigset_t before;
    int stop_signal;   /* the first TERM, INT, QUIT or HUP that asked for an end; 0 = none */
    double stopped_at; /* when it came */
};
enum ckpt_status supervisor_init(struct supervisor *s, struct ckpt_err *err) CKPT_MUST_CHECK;
void supervisor_fini(struct supervisor *s);

struct supervise_end {
    int status; /* of the command, as waitpid gives it */
    double seconds;
    unsigned outlived; /* processes that had to be told to end after it */
    bool grace_over;   /* they, or the command after a stop signal, had to be killed */
};
/* Starts argv with CKPT_LAUNCH=token and returns when it and all that it started have
 * ended.  A stop signal is passed on to the command, which then has `grace_s` seconds; what
 * outlives it has what is left of them, but a moment at least, or without a stop signal all
 * of them from its end.  USR1 and USR2 are just passed on; a ^C that the terminal has given
 * the command too is not repeated.  CKPT_NOT_FOUND: no such program. */
enum ckpt_status supervise(struct supervisor *s, char *const *argv, const char *token,
                           double grace_s, struct supervise_end *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Waits, but not longer than until a stop signal. */
void supervise_pause(struct supervisor *s, double seconds);
