/* The numbered messages: nothing is lost, doubled or reordered when the connection is cut
 * at random, again and again.  The scripted daemon checks every number and every repeat. */
#include "fakes/lib_fixture.h"

int main(void)
{
    unsigned long long rng = test_seed(20240611);
    static const unsigned types[] = { WIRE_SAVE, WIRE_FULL, WIRE_FULL, WIRE_BACK, WIRE_RESTORED };
    struct fixture f;
    struct fake_script s = fix_script();
    int cases = 0;
    s.not_final = true;
    fix_open_with(&f, &s, FIX_BIG);
    for (unsigned round = 1; round <= 40; round++, cases++) {
        uint64_t op;
        s.drop_type = types[test_rand(&rng) % 5];
        s.drop = test_rand(&rng) % 2 ? FAKE_DROP_BEFORE : FAKE_DROP_AFTER;
        s.drop_at = 1 + (uint32_t)(test_rand(&rng) % 3);
        s.repeat_grants = (uint32_t)(test_rand(&rng) % 3);
        fake_set(f.d, &s);
        fix_fill(&f, round);
        CHECK_OK(fix_save(&f, round, &op));
        CHECK_OK(ckpt_fence(f.s, 20000));
        fix_compare(&f, round);
    }
    struct fake_seen seen = fake_seen(f.d);
    printf("%u drops, %u repeats\n", seen.drops, seen.repeats);
    CHECK(seen.drops >= 10 && seen.repeats >= 5 && seen.repeated_grants > 0);
    fix_close(&f);
    TEST_CASES(cases);
    return 0;
}
