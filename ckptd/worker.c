/* Setting up a worker, and ending it. */
#include "ckptd/worker.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "ckptd/notify.h"

/* Digests give way to the trainer, first of all to its copy into the arena. */
#define DATA_NICE      10
#define DIGEST_THREADS 2  /* 10 GB/s each: more than disks take */
#define DRAIN_NICE     15 /* and drains to saves */
#define RECORD_THREADS 2

/* One for each tier that is drained to; a thread beside the streams, so that what a launch
 * asks of the tier does not wait behind packs. */
static enum ckpt_status start_drains(struct control *c, struct jobs_setup *setup,
                                     struct ckpt_err *err)
{
    struct crew_options drain = {
        .name = "ckptd-drain",
        .threads = c->config->remote_streams + 1,
        .nice = DRAIN_NICE,
        .event_fd = c->done_fd,
        .work_new = jobs_work_new,
        .work_free = jobs_work_free,
        .arg = setup,
    };
    enum ckpt_status st = CKPT_OK;
    setup->drain = true;
    for (uint32_t i = 1; st == CKPT_OK && i < c->tiers.count; i++)
        st = crew_new(&drain, &c->drains[i], err);
    setup->drain = false;
    return st;
}

static enum ckpt_status start_crews(struct control *c, struct jobs_setup *setup,
                                    struct ckpt_err *err)
{
    setup->tiers = &c->tiers;
    setup->cancel = &c->cancel;
    struct crew_options data = {
        .name = "ckptd-data",
        .threads = c->config->crew,
        .nice = DATA_NICE,
        .event_fd = c->done_fd,
        .work_new = jobs_work_new,
        .work_free = jobs_work_free,
        .arg = setup,
    };
    struct crew_options records = data;
    records.name = "ckptd-rec";
    records.threads = RECORD_THREADS;
    records.nice = 0;
    struct crew_options digests = data;
    digests.name = "ckptd-dig";
    digests.threads = DIGEST_THREADS;
    setup->data = true;
    enum ckpt_status st = crew_new(&data, &c->data, err);
    setup->data = false;
    if (st == CKPT_OK)
        st = crew_new(&digests, &c->digests, err);
    if (st == CKPT_OK)
        st = crew_new(&records, &c->records, err);
    struct crew_options begins = records;
    begins.name = "ckptd-begin";
    if (st == CKPT_OK)
        st = crew_new(&begins, &c->begins, err);
    return st == CKPT_OK ? start_drains(c, setup, err) : st;
}

/* Waits that tests shorten. */
static int64_t from_env_ms(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    long long ms = text ? strtoll(text, NULL, 10) : 0;
    if (ms > 0)
        log_warn("the environment changes a wait that only tests change", "%s=%lld", name, ms);
    return ms > 0 ? (int64_t)ms * 1000000 : otherwise;
}

static enum ckpt_status make_control(struct control *c, struct ckpt_err *err)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    c->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->committer = calloc(1, sizeof(*c->committer));
    c->restores = calloc(1, sizeof(*c->restores));
    c->plans = calloc(RESTORE_GROUPS_MAX, sizeof(*c->plans));
    c->drainer = calloc(1, sizeof(*c->drainer));
    if (c->signal_fd < 0 || c->epoll_fd < 0 || c->done_fd < 0)
        return err_errno(err, errno, "setting up the worker");
    if (!c->committer || !c->restores || !c->plans || !c->drainer)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for the worker's tables");
    c->committer->arrival_ns = from_env_ms("CKPT_ARRIVAL_MS", COMMITTER_ARRIVAL_NS);
    c->tier_ns = from_env_ms("CKPT_TIER_MS", CONTROL_TIER_NS);
    c->later_last = &c->later;
    c->next_key = 1;
    c->now = c->started_ns = jobs_now_ns();
    return CKPT_OK;
}

/* -- what another worker left ------------------------------------------------------------ */

static int kept_fd(const struct keep_table *kept, const uint8_t id[16], enum kept_kind kind,
                   uint32_t index)
{
    for (size_t i = 0; i < kept->count; i++) {
        const struct keep_entry *e = &kept->entries[i];
        if (e->kind == kind && e->index == index && memcmp(e->session, id, 16) == 0)
            return e->fd;
    }
    return -1;
}

/* A worker that died while it opened a session may have left things without a ledger.  Nobody
 * was told of that session, so nobody will ask for them. */
static void drop_unclaimed(struct control *c, const struct keep_table *kept)
{
    for (size_t i = 0; i < kept->count; i++) {
        const struct keep_entry *e = &kept->entries[i];
        if (kept_fd(kept, e->session, KEEP_LEDGER, 0) >= 0)
            continue;
        close(e->fd);
        keep_drop(c->keep, e->session, e->kind, e->index);
    }
}

/* The descriptors of the session become this worker's. */
static void adopt(struct control *c, const struct keep_table *kept, const struct keep_entry *e)
{
    struct ckpt_err err = { 0 };
    struct client *cl = client_new(c);
    if (!cl)
        return;
    enum ckpt_status st = ledger_open(e->fd, &cl->ledger, cl->s, &err);
    if (st != CKPT_OK) {
        log_error("a ledger cannot be read", "why=\"%s\"", err_text(&err));
        keep_drop(c->keep, e->session, 0, 0);
        client_free(c, cl);
        return;
    }
    cl->open = true;
    cl->pidfd = kept_fd(kept, e->session, KEEP_PIDFD, 0);
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++) {
        cl->states[i].decl_fd = kept_fd(kept, e->session, KEEP_DECL, i);
        cl->states[i].arena.fd = kept_fd(kept, e->session, KEEP_ARENA, i);
        if (cl->s->states[i].phase == STATE_SEALING && cl->states[i].arena.fd >= 0) {
            close(cl->states[i].arena.fd); /* made, but not told: made again */
            cl->states[i].arena.fd = -1;
        }
    }
    if (!control_adopt_states(c, cl, &err)) {
        log_error("a session cannot be taken over", "job=%s rank=%u why=\"%s\"", cl->s->job,
                  cl->s->rank, err_text(&err));
        client_free(c, cl);
        return;
    }
    if (!cl->s->dead)
        cl->s->detached_ns = c->now;
    c->served = true;
    control_launch_adopt(c, cl);
    if (cl->pidfd >= 0 && !control_watch(c, cl->pidfd, (uint64_t)cl->number << 8 | 1, false))
        _exit(CONTROL_NO_MEMORY_EXIT); /* the next one tries again */
    log_info("session taken over", "job=%s rank=%u seq=%" PRIu64 " busy=%s", cl->s->job,
             cl->s->rank, cl->s->seq, session_busy(cl->s) ? "yes" : "no");
}

static void adopt_all(struct control *c, const struct keep_table *kept)
{
    drop_unclaimed(c, kept);
    for (size_t i = 0; i < kept->count; i++)
        if (kept->entries[i].kind == KEEP_LEDGER)
            adopt(c, kept, &kept->entries[i]);
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i])
            control_tell(c, c->clients[i], &(struct session_event){ .kind = SESSION_REPLAY });
}

/* One that cannot be written serves restores, so it is no reason to end. */
static void warn_unwritable(struct store *home)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = repo_probe(home, &err);
    if (st != CKPT_OK)
        log_warn("the store cannot be written: saves will fail", "status=%s why=\"%s\"",
                 status_name(st), err_text(&err));
}

/* -- the worker ----------------------------------------------------------------------------- */

static void say_ready(const struct worker *w, const struct keep *keep)
{
    keep_ready(keep);
    notify_systemd("READY=1");
    if (w->ready_fd < 0)
        return;
    ssize_t n = write(w->ready_fd, "r", 1);
    (void)n; /* whoever waited may be gone */
    close(w->ready_fd);
}

int worker_main(void *arg, const struct keep *keep, const struct keep_table *kept)
{
    const struct worker *w = arg;
    struct ckpt_err err = { 0 };
    struct control *c = calloc(1, sizeof(*c));
    if (!c)
        return 1;
    c->config = w->config;
    c->worker = w;
    log_set_level(w->config->log_level);
    c->keep = keep;
    c->rundir = w->rundir;
    c->counters = w->counters;
    c->counters->node[METER_NODE_WORKERS]++;
    c->listen_fd = w->rundir->listen_fd;
    c->shared_store = store_url_shared(w->config->store);
    snprintf(c->socket, sizeof(c->socket), "%s", w->rundir->socket);
    struct jobs_setup setup = { .slot_bytes = w->config->slot_bytes,
                                .codec = { w->config->codec, w->config->codec_level } };
    enum ckpt_status st = make_control(c, &err);
    const char *own = w->config->local ? w->config->local : w->config->store;
    if (st == CKPT_OK)
        st = rundir_node(w->rundir, own, c->node, &err);
    if (st == CKPT_OK)
        st = tiers_setup_open(&c->tiers, w->config, c->node, kept->count > 0, w->home, &err);
    if (st == CKPT_OK)
        st = rundir_node(w->rundir, own, c->node, &err);
    memcpy(setup.node, c->node, sizeof(setup.node));
    if (st == CKPT_OK)
        st = start_crews(c, &setup, &err);
    c->setup = setup;
    if (st != CKPT_OK) {
        log_error("cannot start", "status=%s why=\"%s\"", status_name(st), err_text(&err));
        return 4;
    }
    struct store *home = c->tiers.opened[c->tiers.home];
    store_to_text(home, c->store_text, sizeof(c->store_text));
    if (kept->count == 0)
        warn_unwritable(home);
    drainer_init(c->drainer, c->tiers.count, w->config->remote_streams, c->now);
    adopt_all(c, kept);
    control_drain_adopt(c);
    control_prune_begin(c);
    say_ready(w, keep);
    log_info("serving", "socket=%s store=\"%s\" sessions=%u", c->socket, c->store_text,
             c->client_count);
    int rc = control_run(c);
    if (c->orphan)
        rundir_say(w->rundir, "ended");
    if (c->jobs_out > 0)
        _exit(rc); /* a job hangs in the store; its thread cannot be waited for */
    crew_free(c->digests);
    crew_free(c->data);
    crew_free(c->records);
    crew_free(c->begins);
    for (uint32_t i = 0; i < TIERS_MAX; i++)
        if (c->drains[i])
            crew_free(c->drains[i]);
    if (c->prunes)
        crew_free(c->prunes);
    control_fini(c);
    tiers_setup_close(&c->tiers);
    free(c);
    return rc;
}
