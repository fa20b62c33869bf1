/* respawn.c: how often a daemon is started, on a clock of the test's. */
#include "libckpt/respawn.h"

#include "check.h"

#define SECOND  INT64_C(1000000000)
#define LOOK_NS (SECOND / 20)

static int cases;

/* Starts whenever it may, looking every 50 ms; each lasts so long.  How often until `end`? */
static unsigned starts(struct respawn *r, int64_t *now, int64_t end, int64_t lasts)
{
    unsigned n = 0;
    for (; *now < end; *now += LOOK_NS) {
        if (!respawn_due(r, *now))
            continue;
        respawn_note(r, *now);
        *now += lasts;
        n++;
    }
    cases++;
    return n;
}

int main(void)
{
    for (int64_t zero = 0; zero <= 1000000 * SECOND; zero += 500000 * SECOND) {
        struct respawn r = { 0 };
        int64_t now = zero;
        CHECK_EQ(starts(&r, &now, zero + SECOND / 10, 0), 1); /* the first at once */
        CHECK_EQ(starts(&r, &now, zero + SECOND, 0), 3);      /* at 0.1, 0.3 and 0.7 s */
        CHECK_EQ(starts(&r, &now, zero + 12 * SECOND, 0), 3); /* 1.5, 3.1, 6.3 s */
        CHECK_EQ(starts(&r, &now, zero + 3600 * SECOND + 12 * SECOND, 0), 360);
        /* One that hangs, for as long as it may without counting as one that served. */
        CHECK_EQ(starts(&r, &now, now + 100 * SECOND, 4 * SECOND), 10);
        /* One that served: the next at once, and when that fails 0.1 s later. */
        now = r.next_ns + 60 * SECOND;
        CHECK_EQ(starts(&r, &now, now + SECOND, 0), 4);
    }
    TEST_CASES(cases);
    return 0;
}
