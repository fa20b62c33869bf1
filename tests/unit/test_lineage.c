/* What a job continues from (I3, I5; lineage.c, lineage_pick.c): one line of history, one answer.
 *
 * A history is words:   L<epoch>[<E.S][flags]   a launch, resumed from step S of epoch E
 *   flags: ! forced   r restored   p progressed   s superseded   u unresolved
 *          *E.S digests failed there   ?E.S could not be read   =x token x
 * and commits: C<E.S> live   D<E.S> deleted   U<E.S> not restorable here.
 * The answer: "E.S", "none", "refused", "absent"; " stop" and " forced" behind it. */
#include <ctype.h>
#include <inttypes.h>

#include "storage/repo/lineage.h"

#include "check.h"

static struct ckpt_name name_at(uint64_t epoch, uint64_t step)
{
    return (struct ckpt_name){ .epoch = epoch, .step = step, .attempt = epoch * 1000 + step };
}

static uint64_t number(const char **at)
{
    char *end;
    uint64_t n = strtoull(*at, &end, 10);
    CHECK(end != *at);
    *at = end;
    return n;
}

static struct ckpt_name parse_name(const char **at)
{
    uint64_t epoch = number(at);
    CHECK(**at == '.');
    ++*at;
    return name_at(epoch, number(at));
}

static void parse_flag(const char **at, struct lineage_launch *l)
{
    switch (*(*at)++) {
    case '<':
        l->kind = RESOLVED_POINT;
        l->point = parse_name(at);
        break;
    case '!':
        l->forced = true;
        break;
    case 'r':
        l->restored = true;
        break;
    case 'p':
        l->progressed = true;
        break;
    case 's':
        l->kind = RESOLVED_SUPERSEDED;
        break;
    case 'u':
        l->resolved = false;
        break;
    case '*':
        l->corrupt = true;
        __attribute__((fallthrough));
    case '?':
        l->bad_count = 1;
        l->bad_name = parse_name(at);
        snprintf(l->bad_text, sizeof(l->bad_text), "pack 3 of rank 0");
        break;
    case '=':
        snprintf(l->token, sizeof(l->token), "%c", *(*at)++);
        break;
    default:
        CHECK(!"a flag of a launch");
    }
}

static void parse_launch(const char **at, struct lineage *l)
{
    struct lineage_launch launch = { .epoch = number(at), .claimed = true, .resolved = true };
    snprintf(launch.token, sizeof(launch.token), "t%" PRIu64, launch.epoch);
    while (**at && **at != ' ')
        parse_flag(at, &launch);
    memmove(l->launches + 1, l->launches, l->launch_count * sizeof(launch));
    l->launches[0] = launch;
    l->launch_count++;
}

static int newest_first(const void *a, const void *b)
{
    const struct ckpt_name *x = &((const struct lineage_commit *)a)->name;
    const struct ckpt_name *y = &((const struct lineage_commit *)b)->name;
    if (x->epoch != y->epoch)
        return x->epoch > y->epoch ? -1 : 1;
    return x->step > y->step ? -1 : x->step < y->step;
}

static void parse_commit(char kind, const char **at, struct lineage *l)
{
    struct lineage_commit c = { .name = parse_name(at), .known = true, .restorable = kind != 'U' };
    if (kind == 'D')
        c.life = LIFE_DELETED;
    if (kind == 'U')
        snprintf(c.why_not, sizeof(c.why_not), "out of reach");
    l->commits[l->commit_count++] = c;
}

/* The history, and the claim of the launch that asks. */
static uint64_t parse_history(const char *text, struct lineage *l)
{
    l->launches = calloc(64, sizeof(*l->launches));
    l->commits = calloc(64, sizeof(*l->commits));
    CHECK(l->launches && l->commits);
    while (*text) {
        char kind = *text++;
        if (kind == 'L')
            parse_launch(&text, l);
        else if (kind != ' ')
            parse_commit(kind, &text, l);
    }
    uint64_t below = l->launch_count ? l->launches[0].epoch + 1 : 1;
    char mine[32];
    snprintf(mine, sizeof(mine), "%" PRIu64 "u", below);
    const char *at = mine;
    parse_launch(&at, l);
    qsort(l->commits, l->commit_count, sizeof(l->commits[0]), newest_first);
    return below;
}

static void answer(enum ckpt_status st, const struct record_resolved *r, char *ret, size_t cap)
{
    if (st == CKPT_REFUSED)
        snprintf(ret, cap, "refused");
    else if (st == CKPT_NOT_FOUND)
        snprintf(ret, cap, "absent");
    else if (st != CKPT_OK)
        snprintf(ret, cap, "%s", status_name(st));
    else if (r->kind == RESOLVED_NOTHING)
        snprintf(ret, cap, "none%s", r->forced ? " forced" : "");
    else
        snprintf(ret, cap, "%" PRIu64 ".%" PRIu64 "%s%s", r->name.epoch, r->name.step,
                 r->stop ? " stop" : "", r->forced ? " forced" : "");
}

/* ---- read in part ---- */

static uint64_t parts_read, parts_all; /* records of launches: read, and there */

/* What is known of launches after reading from these epochs up. */
static void reveal(const struct lineage *full, struct lineage *part)
{
    for (size_t i = 0; i < full->launch_count; i++) {
        const struct lineage_launch *from = &full->launches[i];
        bool told = from->epoch >= part->reports_from,
             resolved = from->epoch >= part->resolved_from;
        struct lineage_launch l = { .epoch = from->epoch, .resolved = from->resolved };
        if (told) {
            l.claimed = from->claimed;
            memcpy(l.token, from->token, sizeof(l.token));
            l.restored = from->restored;
            l.progressed = from->progressed;
        }
        if (resolved) {
            l.kind = from->kind;
            l.forced = from->forced;
            l.point = from->point;
            l.bad_count = from->bad_count;
            l.corrupt = from->corrupt;
            l.bad_name = from->bad_name;
            memcpy(l.bad_text, from->bad_text, sizeof(l.bad_text));
        }
        part->launches[i] = l;
        parts_read += told + resolved;
        parts_all += 2;
    }
}

/* Law: a choice made over no more than it asks for is the choice over all. */
static void check_part(const struct lineage *full, const struct lineage_wish *wish)
{
    struct lineage part = *full;
    struct lineage_need need;
    struct record_resolved whole = { 0 }, r = { 0 };
    struct ckpt_err why_whole = { 0 }, why = { 0 };
    enum ckpt_status st, want = lineage_pick(full, wish, &whole, &why_whole);
    size_t rounds = 0;
    part.launches = calloc(full->launch_count + 1, sizeof(*part.launches));
    CHECK(part.launches);
    part.resolved_from = part.reports_from = UINT64_MAX;
    reveal(full, &part);
    while ((st = lineage_pick_part(&part, wish, &need, &r, &why)) == CKPT_BUSY) {
        CHECK(!why.text[0] && rounds++ <= 2 * full->launch_count);
        CHECK(need.resolved_from < part.resolved_from || need.reports_from < part.reports_from);
        part.resolved_from = min_u64(part.resolved_from, need.resolved_from);
        part.reports_from = min_u64(part.reports_from, need.reports_from);
        reveal(full, &part);
    }
    CHECK_EQ(st, want);
    CHECK_STR(why.text, why_whole.text);
    if (st == CKPT_OK) {
        CHECK_EQ(r.kind, whole.kind);
        CHECK(r.kind != RESOLVED_POINT || name_equal(&r.name, &whole.name));
        CHECK(r.stop == whole.stop && r.forced == whole.forced);
        CHECK_STR(r.why, whole.why);
        CHECK_EQ(r.skip_count, whole.skip_count);
        for (uint32_t i = 0; i < r.skip_count; i++) {
            CHECK(name_equal(&r.skips[i].name, &whole.skips[i].name));
            CHECK_STR(r.skips[i].why, whole.skips[i].why);
        }
        record_resolved_fini(&r);
        record_resolved_fini(&whole);
    }
    free(part.launches);
}

static void check_pick(const char *history, const char *wished, const char *expected)
{
    struct lineage l = { 0 };
    struct lineage_wish wish = { .below = parse_history(history, &l) };
    if (wished) {
        wish.forced = true;
        wish.none = strcmp(wished, "none") == 0;
        const char *at = wished;
        wish.step = wish.none ? 0 : number(&at);
        wish.has_epoch = *at == '~';
        if (*at++ == '~')
            wish.epoch = number(&at);
    }
    struct record_resolved r = { .epoch = 77 };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = lineage_pick(&l, &wish, &r, &err);
    char got[128];
    answer(st, &r, got, sizeof(got));
    if (strcmp(got, expected) != 0)
        fprintf(stderr, "history \"%s\" %s: %s\n", history, wished ? wished : "", err.text);
    CHECK_STR(got, expected);
    CHECK_EQ(r.epoch, st == CKPT_OK ? wish.below : 77);
    CHECK(st == CKPT_OK ? r.why[0] && !err.text[0] : err.text[0]);
    char text[4096];
    lineage_to_text(&l, st == CKPT_OK ? &r : NULL, text, sizeof(text));
    CHECK(strstr(text, "launch "));
    check_part(&l, &wish);
    if (st == CKPT_OK)
        record_resolved_fini(&r);
    lineage_fini(&l);
}

/* Rule I3, sentence by sentence. */
static const char *const newest_cases[][2] = {
    /* a job without a checkpoint starts at the beginning */
    { "", "none" },
    { "L1", "none" },
    { "L1 L2", "none" },
    { "L1u", "none" },
    /* the newest resolved launch, its highest live step */
    { "L1 C1.40", "1.40" },
    { "L1 C1.40 C1.80 C1.120", "1.120" },
    { "L1 C1.40 C1.80 D1.120", "1.80" },
    { "L1 C1.120 L2<1.120 C2.130", "2.130" },
    { "L1 C1.120 L2<1.120 C2.130 D2.140", "2.130" },
    /* unresolved and superseded launches are no part of it */
    { "L1 C1.120 L2u", "1.120" },
    { "L1 C1.120 L2s", "1.120" },
    { "L1 C1.120 L2u C2.500", "1.120" },
    { "L1 C1.120 L2s C2.500", "1.120" },
    /* never simply the highest step: the run that was rolled back from 120 to 80 */
    { "L1 C1.40 C1.80 C1.120 L2<1.80! C2.90 C2.100", "2.100" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80!", "1.80" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80! L3<1.80", "1.80" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80! L3<1.80 L4<1.80 C4.85", "4.85" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80! L3<1.80! L4s L5u", "1.80" },
    /* ... nor the last commit: the old launch's late one sorts behind */
    { "L1 C1.80 L2<1.80 C2.90 C1.120", "2.90" },
    { "L1 C1.80 L2<1.80! C1.120", "1.80" },
    /* transparent: a launch that saved nothing and was not forced does not move the head */
    { "L1 C1.80 L2<1.80 C1.120", "1.120" },
    { "L1 C1.80 C1.120 L2<1.80", "1.120" },
    { "L1 C1.80 C1.120 L2<1.80 L3<1.80", "1.120" },
    { "L1 C1.80 C1.120 L2", "1.120" },
    { "L1 L2 C1.80", "1.80" },
    /* ... its own resume point comes last */
    { "L1 C1.80 U1.120 L2<1.80", "1.80" },
    { "L1 D1.80 U1.120 L2<1.80", "1.80" },
    { "L1 D1.80 D1.120 L2<1.80", "1.80" },
    { "L1 D1.80 D1.120 L2<1.80 L3<1.120", "1.80" },
    { "L1 D1.70 D1.80 L2<1.80 L3<1.70", "1.80" },
    /* deleted commits count as "has commits": the head stays moved */
    { "L1 C1.80 C1.120 L2<1.80 D2.90", "1.80" },
    { "L1 C1.80 C1.120 L2<1.80! D2.90 D2.95", "1.80" },
    { "L1 C1.80 C1.120 L2<1.80 D2.90 L3<1.80", "1.80" },
    /* a DELETED resume point is a candidate; a deleted commit that nobody resumed from is not */
    { "L1 D1.80 L2<1.80!", "1.80" },
    { "L1 D1.80 C1.120 L2<1.80!", "1.80" },
    { "L1 D1.80 L2<1.80 D2.90", "1.80" },
    { "L1 C1.40 D1.80 L2<1.80 D2.90", "1.80" },
    { "L1 D1.80", "refused" },
    /* further down the branch when the resume point is gone or out of reach */
    { "L1 C1.40 C1.120 L2<1.80!", "1.40" },
    { "L1 C1.40 U1.80 C1.120 L2<1.80!", "1.40" },
    { "L1 C1.40 L2<1.40 U2.50 L3<2.50! D3.60", "1.40" },
    { "L1 C1.40 C1.60 L2<1.40! U2.50 L3<2.50! U3.60", "1.40" },
    /* NOTHING only if no commit is live or DELETED */
    { "L1 U1.80", "refused" },
    { "L1 C1.80 L2!", "refused" },
    { "L1 C1.80 L2! C2.10", "2.10" },
    { "L1 C1.80 L2! D2.10", "refused" },
    { "C1.80 L2!", "refused" },
    { "L1u C1.80", "refused" },
    { "L1 L2<1.80!", "none" },
    /* records that contradict each other neither crash nor loop */
    { "L1 L2<2.80 C2.80", "2.80" },
    { "L1 C1.10 L2<3.80! L3<2.80!", "refused" },
};

/* Rule I5. */
static const char *const crash_cases[][2] = {
    /* two are not enough, three are: one step back */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r", "1.40" },
    /* only launches that restored everywhere and died before progress */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80 L4<1.80r", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80 L3<1.80 L4<1.80 L5<1.80", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80rp L4<1.80r L5<1.80r", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80rp L3<1.80r L4<1.80r L5<1.80r", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r C4.90", "4.90" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r D4.90", "1.80" },
    /* a launch without restore in between does not break the row */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80 L4<1.80r L5s L6u L7<1.80r", "1.40" },
    /* a rollback inside the process is no death */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r=x L5<1.40!=x", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r=x L5<1.80=x", "1.80" },
    /* the step back fails K times too: return, and stop for a human */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r L7<1.40r", "1.80 stop" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r L7<1.40r", "1.80 stop" },
    { "L1 C1.80 L2<1.80r L3<1.80r L4<1.80r", "1.80 stop" },
    /* ... unless that could not be read meanwhile */
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r L7<1.40r L8<1.80*1.80",
      "1.20" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r L7<1.40r L8<1.80?1.80",
      "1.20" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.40 L6<5.40r L7<5.40r L8<1.80!*1.80 "
      "L9<5.40!r L10<5.40r L11<5.40r",
      "1.20" },
    /* a launch that saves again the step from which it resumed has made no progress: all of
     * those saves are one state, and what counts against one counts against all */
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80", "3.80" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 L4<3.80r C4.80", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r L4<2.80r", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r D3.80 L4<3.80r L5<3.80r", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r U3.80 L4<3.80r", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 C3.90 L4<3.90r L5<3.90r", "3.90" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 D3.90 L4<3.80r L5<3.80r", "3.80" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80rp C3.80 L4<3.80r L5<3.80r", "3.80" },
    { "L1 C1.40 C1.80 L2<1.80r C2.60 L3<1.80r C3.60 L4<1.80r C4.60", "4.60" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 L4<3.80!r C4.80", "4.80" },
    { "L1 C1.40 C1.80 L2<1.80r=x C2.80 L3<2.80!r=x C3.80 L4<3.80r", "3.80" },
    /* ... also when it is the step back that is saved again, and so moves the head */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.40 L6<5.40r C6.40", "6.40" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.40 L6<5.40r C6.40 L7<6.40r",
      "1.80 stop" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 L4<3.80r L5<1.40r C5.40 L6<5.40r L7<5.40r C7.40",
      "3.80 stop" },
    { "L1 C1.40 C1.80 L2<1.80r C2.80 L3<2.80r C3.80 L4<3.80r L5<1.40r L6<1.40r L7<1.40r",
      "3.80 stop" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.40 L6<5.40r L7<5.40r L8<1.80r C8.80",
      "8.80 stop" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.40 C5.50 L6<5.50r L7<5.50r "
      "L8<5.50r",
      "5.40" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40!r C5.40 L6<5.40r L7<5.40r", "1.20" },
    /* progress on the step back clears it for the step back only */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r L6<1.40r L7<1.40rp", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.40r C5.50", "5.50" },
    /* a forced resume starts the count again */
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.80!", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.80!r L6<1.80r", "1.80" },
    { "L1 C1.40 C1.80 L2<1.80r L3<1.80r L4<1.80r L5<1.80!r L6<1.80r L7<1.80r", "1.40" },
    /* wrong digests count at once, and for good */
    { "L1 C1.40 C1.80 L2<1.80*1.80", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80*1.80 L3<1.40 L4<1.40", "1.40" },
    { "L1 C1.20 C1.40 C1.80 L2<1.80*1.80 L3<1.40*1.40", "1.20" },
    { "L1 C1.80 L2<1.80*1.80", "refused" },
    { "L1 C1.40 C1.80 L2<1.80!*1.80", "1.40" },
    /* ... until somebody restored it */
    { "L1 C1.40 C1.80 L2<1.80*1.80 L3<1.80!r", "1.80" },
    /* a corrupt one is passed over, it is not "the step back that failed too" */
    { "L1 C1.20 C1.40 C1.80 L2<1.40*1.40 L3<1.80r L4<1.80r L5<1.80r", "1.20" },
    /* I4: what the last launch could not read is passed over once, no quarantine (H3) */
    { "L1 C1.40 C1.80 L2<1.80?1.80", "1.40" },
    { "L1 C1.40 C1.80 L2<1.80?1.80 L3<1.40", "1.80" },
};

/* opts.resume, CKPT_RESUME, I6. */
static const char *const forced_cases[][3] = {
    { "L1 C1.40 C1.80 C1.120", "80", "1.80 forced" },
    { "L1 C1.40 C1.80 C1.120", "none", "none forced" },
    { "L1", "none", "none forced" },
    { "L1 C1.40", "41", "absent" },
    { "L1 C1.40", "40~2", "absent" },
    { "L1 C1.40", "40~1", "1.40 forced" },
    /* without epoch: on the newest lineage only */
    { "L1 C1.80 C1.120 L2<1.80! C2.90", "120", "absent" },
    { "L1 C1.80 C1.120 L2<1.80! C2.90", "120~1", "1.120 forced" },
    { "L1 C1.80 C1.120 L2<1.80! C2.120", "120", "2.120 forced" },
    { "L1 C1.80 C1.120 L2<1.80! C2.90", "80", "1.80 forced" },
    { "L1 C1.80 C1.120 L2<1.80!", "120", "absent" },
    { "L1 C1.80 C1.120 L2<1.80", "120", "1.120 forced" },
    /* a deleted or unreachable one is refused, a quarantined one is taken */
    { "L1 C1.40 D1.80", "80", "refused" },
    { "L1 C1.40 U1.80", "80", "refused" },
    { "L1 C1.40 C1.80 L2<1.80*1.80", "80", "1.80 forced" },
    { "L1 C1.80 L2<1.80r L3<1.80r L4<1.80r", "80", "1.80 forced" },
};

static int test_picks(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(newest_cases); i++)
        check_pick(newest_cases[i][0], NULL, newest_cases[i][1]);
    for (size_t i = 0; i < ARRAY_COUNT(crash_cases); i++)
        check_pick(crash_cases[i][0], NULL, crash_cases[i][1]);
    for (size_t i = 0; i < ARRAY_COUNT(forced_cases); i++)
        check_pick(forced_cases[i][0], forced_cases[i][1], forced_cases[i][2]);
    return ARRAY_COUNT(newest_cases) + ARRAY_COUNT(crash_cases) + ARRAY_COUNT(forced_cases);
}

/* Commits that are on the branch, of all in the history. */
static const char *const branch_cases[][2] = {
    { "L1 C1.40 C1.80", "1.80 1.40" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80! C2.90 C2.100", "2.100 2.90 1.80 1.40" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80!", "1.80 1.40" },
    { "L1 C1.40 C1.80 C1.120 L2<1.80", "1.120 1.80 1.40" },
    { "L1 C1.40 D1.80 L2<1.40! C2.50 L3<2.50 C3.60 C2.70", "3.60 2.50 1.40" },
    { "L1 C1.40 L2! C2.10", "2.10" },
    { "L1u C1.40", "" },
};

static int test_branch(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(branch_cases); i++) {
        struct lineage l = { 0 };
        parse_history(branch_cases[i][0], &l);
        char got[256] = "";
        for (size_t k = 0; k < l.commit_count; k++) {
            const struct ckpt_name *n = &l.commits[k].name;
            if (lineage_on_branch(&l, n))
                snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%" PRIu64 ".%" PRIu64,
                         got[0] ? " " : "", n->epoch, n->step);
        }
        CHECK_STR(got, branch_cases[i][1]);
        lineage_fini(&l);
    }
    return ARRAY_COUNT(branch_cases);
}

static int test_skips_say_why(void)
{
    struct lineage l = { 0 };
    struct lineage_wish wish = {
        .below = parse_history(
            "L1 C1.10 C1.20 U1.30 D1.40 C1.50 C1.60 L2<1.60*1.60 L3<1.50r L4<1.50r L5<1.50r", &l)
    };
    struct record_resolved r;
    CHECK_OK(lineage_pick(&l, &wish, &r, NULL));
    CHECK_EQ(r.name.step, 20);
    static const struct {
        uint64_t step;
        const char *why;
    } expected[] = {
        { 60, "damaged" }, { 50, "3 launches in a row" }, { 40, "deleted" }, { 30, "out of reach" }
    };
    CHECK_EQ(r.skip_count, ARRAY_COUNT(expected));
    for (size_t i = 0; i < r.skip_count; i++) {
        CHECK_EQ(r.skips[i].name.step, expected[i].step);
        CHECK(strstr(r.skips[i].why, expected[i].why));
    }
    CHECK(strstr(r.why, "stepped back"));
    struct ckpt_name c50 = name_at(1, 50), c60 = name_at(1, 60), c20 = name_at(1, 20);
    CHECK(lineage_quarantined(&l, &c60, wish.below));
    CHECK(lineage_quarantined(&l, &c50, wish.below));
    CHECK(!lineage_quarantined(&l, &c20, wish.below));
    CHECK_EQ(lineage_crashes(&l, &c50, wish.below), 3);
    CHECK_EQ(lineage_crashes(&l, &c50, 5), 2);
    /* The newest launch may still run: nothing counts against it before a later claim. */
    l.launches++;
    l.launch_count--;
    CHECK_EQ(lineage_crashes(&l, &c50, wish.below), 2);
    l.launches--;
    char text[64];
    for (size_t cap = 0; cap < sizeof(text); cap++) {
        memset(text, 'x', sizeof(text));
        lineage_to_text(&l, &r, text, cap);
        CHECK(cap == 0 ? text[0] == 'x' : memchr(text, 0, cap) != NULL);
        CHECK(text[cap] == 'x');
    }
    record_resolved_fini(&r);
    lineage_fini(&l);
    return 9;
}

/* What a record says stays in its line and drives no terminal. */
static int test_hostile_words(void)
{
    struct lineage l = { 0 };
    struct lineage_wish wish = { .below = parse_history("L1 C1.40 L2<1.40", &l) };
    struct record_resolved r = { 0 };
    char text[4096];
    CHECK_OK(lineage_pick(&l, &wish, &r, NULL));
    l.launches[0].bad_count = 1;
    snprintf(l.launches[0].bad_text, sizeof(l.launches[0].bad_text), "a\nnext: \xc2\x9b\x9b\xe2");
    snprintf(r.why, sizeof(r.why), "b\n  not step 40\u202e");
    lineage_to_text(&l, &r, text, sizeof(text));
    CHECK(strstr(text, "step 40 of epoch 1: b?  not step 40?\nlaunch 3: "));
    CHECK(strstr(text, "ranks failed on step 0: a?next: ???\nlaunch 2: "));
    record_resolved_fini(&r);
    lineage_fini(&l);
    return 2;
}

/* Histories that the protocol itself makes: whatever happened, the answer is live, on the
 * branch and never behind an acknowledged save of the newest launch that saved. */
static int test_random_histories(void)
{
    unsigned long long rng = test_seed(20261121);
    int cases = 0;
    for (int round = 0; round < 3000; round++) {
        struct lineage l = { 0 };
        l.launches = calloc(16, sizeof(*l.launches));
        l.commits = calloc(64, sizeof(*l.commits));
        CHECK(l.launches && l.commits);
        struct ckpt_name head = { 0 };
        bool any = false;
        uint64_t epochs = 1 + test_rand(&rng) % 10;
        for (uint64_t e = 1; e <= epochs; e++) {
            struct lineage_wish wish = { .below = e };
            if (l.commit_count && test_rand(&rng) % 4 == 0) {
                wish.forced = wish.has_epoch = true;
                const struct ckpt_name *n = &l.commits[test_rand(&rng) % l.commit_count].name;
                wish.step = n->step;
                wish.epoch = n->epoch;
            }
            struct record_resolved r;
            CHECK_OK(lineage_pick(&l, &wish, &r, NULL));
            check_part(&l, &wish);
            CHECK_EQ(r.kind == RESOLVED_POINT, any);
            if (any && !wish.forced)
                CHECK(name_equal(&r.name, &head));
            struct lineage_launch launch = { .epoch = e,
                                             .claimed = true,
                                             .resolved = true,
                                             .kind = r.kind,
                                             .forced = r.forced,
                                             .point = r.name };
            head = r.name;
            record_resolved_fini(&r);
            memmove(l.launches + 1, l.launches, l.launch_count * sizeof(launch));
            l.launches[0] = launch;
            l.launch_count++;
            for (uint64_t n = test_rand(&rng) % 4; n; n--) {
                head = name_at(e, head.step + 1 + test_rand(&rng) % 9);
                any = true;
                l.commits[l.commit_count++] =
                    (struct lineage_commit){ .name = head, .known = true, .restorable = true };
                qsort(l.commits, l.commit_count, sizeof(l.commits[0]), newest_first);
            }
            CHECK(!any || lineage_on_branch(&l, &head));
            cases++;
        }
        lineage_fini(&l);
    }
    return cases;
}

/* ---- histories that nobody makes ---- */

static struct ckpt_name any_name(unsigned long long *rng, const struct lineage *l, uint64_t epochs)
{
    if (l->commit_count && test_rand(rng) % 4)
        return l->commits[test_rand(rng) % l->commit_count].name;
    return name_at(1 + test_rand(rng) % epochs, 1 + test_rand(rng) % 9);
}

static bool is_there(const struct lineage *l, const struct ckpt_name *name)
{
    for (size_t i = 0; i < l->commit_count; i++)
        if (name_equal(&l->commits[i].name, name))
            return true;
    return false;
}

static struct lineage_launch any_launch(unsigned long long *rng, const struct lineage *l,
                                        uint64_t epoch, uint64_t epochs)
{
    struct lineage_launch launch = { .epoch = epoch,
                                     .claimed = test_rand(rng) % 8 > 0,
                                     .resolved = test_rand(rng) % 6 > 0,
                                     .forced = test_rand(rng) % 6 == 0,
                                     .restored = test_rand(rng) % 2,
                                     .progressed = test_rand(rng) % 4 == 0 };
    snprintf(launch.token, sizeof(launch.token), "t%d", (int)(test_rand(rng) % 8));
    if (launch.resolved && test_rand(rng) % 5 == 0)
        launch.kind = RESOLVED_SUPERSEDED;
    else if (launch.resolved && test_rand(rng) % 4)
        launch.kind = RESOLVED_POINT;
    if (launch.kind == RESOLVED_POINT)
        launch.point = any_name(rng, l, epochs);
    if (test_rand(rng) % 6 == 0) {
        launch.bad_count = 1;
        launch.corrupt = test_rand(rng) % 2;
        /* of a point that was there when it began */
        launch.bad_name = any_name(rng, l, epochs);
        if (launch.bad_name.epoch >= epoch)
            launch.bad_name = launch.kind == RESOLVED_POINT && launch.point.epoch < epoch
                                  ? launch.point
                                  : (struct ckpt_name){ 0 };
    }
    if (launch.point.epoch >= epoch) /* as above; records that contradict each other stay rare */
        launch.kind = launch.kind == RESOLVED_POINT ? RESOLVED_NOTHING : launch.kind;
    return launch;
}

static int test_any_histories(void)
{
    unsigned long long rng = test_seed(4711);
    int cases = 0;
    for (int round = 0; round < 20000; round++) {
        uint64_t epochs = 1 + test_rand(&rng) % 14;
        struct lineage l = { 0 };
        l.launches = calloc(16, sizeof(*l.launches));
        l.commits = calloc(32, sizeof(*l.commits));
        CHECK(l.launches && l.commits);
        for (uint64_t n = test_rand(&rng) % 12; n; n--) {
            struct ckpt_name name = name_at(1 + test_rand(&rng) % epochs, 1 + test_rand(&rng) % 9);
            if (is_there(&l, &name))
                continue;
            l.commits[l.commit_count++] = (struct lineage_commit){
                .name = name,
                .life = test_rand(&rng) % 6 ? LIFE_LIVE : LIFE_DELETED,
                .known = true,
                .restorable = test_rand(&rng) % 5 > 0,
                .why_not = "out of reach",
            };
        }
        qsort(l.commits, l.commit_count, sizeof(l.commits[0]), newest_first);
        for (uint64_t e = epochs; e; e--)
            if (test_rand(&rng) % 8)
                l.launches[l.launch_count++] = any_launch(&rng, &l, e, epochs);
        struct lineage_wish wish = { .below = epochs + 1 - test_rand(&rng) % 2 };
        check_part(&l, &wish);
        wish.forced = true;
        wish.step = 1 + test_rand(&rng) % 9;
        check_part(&l, &wish);
        wish.has_epoch = true;
        wish.epoch = 1 + test_rand(&rng) % epochs;
        check_part(&l, &wish);
        lineage_fini(&l);
        cases += 3;
    }
    printf("read %" PRIu64 " of %" PRIu64 " parts of launches\n", parts_read, parts_all);
    CHECK(parts_read < parts_all);
    return cases;
}

int main(void)
{
    TEST_CASES(test_picks() + test_branch() + test_skips_say_why() + test_hostile_words() +
               test_random_histories() + test_any_histories());
    return 0;
}
