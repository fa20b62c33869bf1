/* The table of numbers. */
#include "formats/meter.h"

#include <stdio.h>

const struct meter meters[METER_COUNT] = {
#define METER_ROW(id, scope, kind, name, help) \
    [METER_##id] = { METER_##scope, METER_##kind, name, help },
    METERS(METER_ROW)
#undef METER_ROW
};

const struct meter *meter_find(enum meter_scope scope, const char *name)
{
    for (size_t i = 0; i < METER_COUNT; i++)
        if (meters[i].scope == scope && strcmp(meters[i].name, name) == 0)
            return &meters[i];
    return NULL;
}

char *meter_prometheus(const struct meter *m, char ret[METER_TEXT])
{
    static const char *const prefixes[METER_SCOPES] = { "", "tier_", "job_", "job_tier_", "rank_" };
    snprintf(ret, METER_TEXT, "ckpt_%s%s%s", prefixes[m->scope], m->name,
             m->kind == METER_COUNTER ? "_total" : "");
    return ret;
}
