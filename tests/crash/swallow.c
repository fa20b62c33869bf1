/* Swallowed syncs.  See swallow.h. */
#include "crash/swallow.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

#include "crash/record_io.h"
#include "crash/workload.h"
#include "store/scratch.h"

#define UNNOTICED_MAX 200 /* tries with a killed writer, for one place */

/* Where in the engine a sync comes from, and what became of those. */
struct site {
    char name[DISK_LABEL];
    uint64_t noticed, unnoticed, idle;
};
static struct site sites[128];
static size_t site_count;

/* Places (how their names end) whose syncs another one always covers before anything refers to
 * what they keep, and why they stay. */
static const struct {
    const char *site, *why;
} covered[] = {
    { "save: sync kit/d/*/*/: fsync",
      "(a store must be asked for it before anything refers to packs; in dir, the put of .h "
      "that follows happens to sync the same directories)" },
    { ": record kit/d/*/*/i0: fsync",
      "(what is put if absent is named at once; publish asks for a sync of the same directories "
      "behind it, because of the parts)" },
    { "drop: record kit/x/*/*: fsync",
      "(what is put if absent is named at once; before anything goes the log is synced again, "
      "because whoever put GONE may have been killed)" },
};

static const char *why_covered(const char *site)
{
    size_t len = strlen(site);
    for (size_t i = 0; i < ARRAY_COUNT(covered); i++) {
        size_t end = strlen(covered[i].site);
        if (len >= end && strcmp(site + len - end, covered[i].site) == 0)
            return covered[i].why;
    }
    return NULL;
}

static struct site *site_of(const struct disk_event *e)
{
    for (size_t i = 0; i < site_count; i++)
        if (strcmp(sites[i].name, e->site) == 0)
            return &sites[i];
    CHECK(site_count < ARRAY_COUNT(sites));
    struct site *s = &sites[site_count++];
    memcpy(s->name, e->site, sizeof(s->name));
    return s;
}

/* Walks in a child; true if it complained, with its last words. */
static bool complains(const struct walk *w, char said[200])
{
    int fds[2], status;
    CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct walk mine = *w;
        dup2(fds[1], STDERR_FILENO);
        walk(&mine);
        _exit(0);
    }
    close(fds[1]);
    FILE *from = fdopen(fds[0], "r");
    CHECK(from);
    said[0] = 0;
    for (char line[1024]; fgets(line, sizeof(line), from);)
        snprintf(said, 200, "%.*s", (int)strcspn(line, "\n"), line);
    fclose(from);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    scratch_remove(w->dir);
    CHECK(WIFEXITED(status)); /* words, never a crash */
    return status != 0;
}

static void swallow_one(const struct walk *like, size_t i)
{
    const struct disk_event *e = &like->log->events[i];
    struct site *site = site_of(e);
    struct walk w = *like;
    char said[200];
    w.swallow = w.from = i;
    w.every = 1;
    bool noticed = complains(&w, said);
    site->noticed += noticed;
    site->unnoticed += !noticed;
    printf("swallowed %zu, %s, %s: %s\n", i, e->site, e->label, noticed ? said : "not noticed");
    fflush(stdout);
}

/* The engine's own work, not what the workload does to it. */
static bool counts(const struct disk_event *e)
{
    return e->op == DISK_SYNC && strncmp(e->site, PHASE_DAMAGE, strlen(PHASE_DAMAGE)) != 0;
}

/* Marks the syncs of the log that have something to do. */
static bool *find_useful(const struct walk *like)
{
    bool *useful = calloc(like->log->count, sizeof(*useful));
    CHECK(useful);
    struct walk w = *like;
    w.from = SIZE_MAX;
    w.useful = useful;
    walk(&w);
    return useful;
}

static void swallow_in_workload(const struct walk *like)
{
    CLEANUP_FREE bool *useful = find_useful(like);
    for (size_t i = 0; i < like->log->count; i++) {
        const struct disk_event *e = &like->log->events[i];
        if (!counts(e))
            continue;
        if (useful[i])
            swallow_one(like, i);
        else
            site_of(e)->idle++;
    }
}

/* Of the second process, what no other run has shown to be needed. */
static void swallow_after_kill(const struct walk *like, const char *base, size_t kill_at)
{
    size_t second;
    workload_record_killed(base, kill_at, &second);
    CLEANUP_FREE bool *useful = find_useful(like);
    for (size_t i = second; i < like->log->count; i++) {
        const struct disk_event *e = &like->log->events[i];
        if (!counts(e))
            continue;
        const struct site *site = site_of(e);
        if (useful[i] && site->noticed == 0 && site->unnoticed < UNNOTICED_MAX)
            swallow_one(like, i);
    }
    workload_forget(base);
}

/* Needed is a place if one of its syncs was; one whose syncs never have anything to do is
 * the same line of the engine in another phase. */
static bool needed(const struct site *s)
{
    if (s->noticed > 0)
        return true;
    for (size_t i = 0; s->unnoticed == 0 && i < site_count; i++)
        if (strcmp(strchr(sites[i].name, ':'), strchr(s->name, ':')) == 0 && sites[i].noticed > 0)
            return true;
    return false;
}

static uint64_t print_sites(void)
{
    uint64_t bad = 0, noticed = 0, unnoticed = 0;
    for (size_t i = 0; i < site_count; i++) {
        const struct site *s = &sites[i];
        const char *why = needed(s) ? "" : why_covered(s->name);
        printf("%4llu noticed %4llu not %4llu idle  %s  %s\n", (unsigned long long)s->noticed,
               (unsigned long long)s->unnoticed, (unsigned long long)s->idle, s->name,
               why ? why : "NOT NEEDED");
        noticed += s->noticed;
        unnoticed += s->unnoticed;
        bad += !why;
    }
    printf("swallowed syncs: %llu noticed, %llu made good by others; %zu places, %llu not needed\n",
           (unsigned long long)noticed, (unsigned long long)unnoticed, site_count,
           (unsigned long long)bad);
    return bad;
}

uint64_t swallow_each(const struct walk *like, const char *base)
{
    size_t count;
    swallow_in_workload(like);
    struct recording workload = recording; /* the walks below record others */
    struct walk after_kill = *like;
    after_kill.log = &recording.log;
    workload_record_killed(base, SIZE_MAX, &count);
    workload_forget(base);
    for (size_t at = 0; at < count; at++)
        swallow_after_kill(&after_kill, base, at);
    recording = workload;
    return print_sites();
}
