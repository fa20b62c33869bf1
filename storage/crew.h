/* A crew: threads that run whole jobs straight through with blocking calls.
 *
 *   owner's thread ──submit──► queue ──► thread: job->run(job, work) ──► done ──► owner
 *
 * Jobs are the owner's memory and are the crew's from submit until crew_done returns
 * them; queue and done list are linked through them, so the crew allocates nothing.
 * Each thread has its own working memory (store handles, buffers), made by work_new in
 * the thread itself.  A crew waits for I/O, never for a client. */
#pragma once

#include "formats/base.h"

struct crew;
struct crew_job {
    void (*run)(struct crew_job *job, void *work);
    struct crew_job *next; /* the crew's */
    bool ahead; /* goes before all that wait and are not; among themselves as they came */
};
struct crew_options {
    const char *name; /* of the threads, at most 11 bytes */
    unsigned threads;
    int nice;     /* of the threads: how far they give way to others (0 = not) */
    int event_fd; /* gets 1 added for each job that is done; borrowed */
    /* Working memory of a thread; NULL with err set = the crew cannot be made. */
    void *(*work_new)(void *arg, struct ckpt_err *err);
    void (*work_free)(void *work);
    void *arg;
};
/* Blocks until every thread has its working memory. */
enum ckpt_status crew_new(const struct crew_options *options, struct crew **ret,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
void crew_submit(struct crew *c, struct crew_job *job);
/* The next job that is done, oldest first; NULL when there is none. */
struct crew_job *crew_done(struct crew *c);
/* Jobs submitted and not run yet. */
size_t crew_waiting(struct crew *c);
/* Ends the threads after what they run now; what was not begun is left where it is. */
void crew_free(struct crew *c);
