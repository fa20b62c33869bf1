/* Which checkpoints go to a tier. */
#include "storage/repo/policy.h"

static enum ckpt_status parse_every(const char *text, size_t len, uint64_t *ret,
                                    struct ckpt_err *err)
{
    uint64_t n = 0;
    for (size_t i = 0; i < len && n < UINT64_MAX / 16; i++)
        n = text[i] >= '0' && text[i] <= '9' ? n * 10 + (uint64_t)(text[i] - '0') : UINT64_MAX;
    if (len == 0 || n == 0 || n >= UINT64_MAX / 16)
        return err_set(err, CKPT_INVALID, "\"every=%.*s\": a number of steps from 1 is expected",
                       (int)len, text);
    *ret = n;
    return CKPT_OK;
}

static bool is_word(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && memcmp(text, word, len) == 0;
}

enum ckpt_status policy_parse(const char *text, struct policy *ret, struct ckpt_err *err)
{
    struct policy p = { .some = true };
    bool all = false;
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        enum ckpt_status st = CKPT_OK;
        if (is_word(at, len, "all"))
            all = true;
        else if (is_word(at, len, "tagged"))
            p.tagged = true;
        else if (is_word(at, len, "last"))
            p.last = true;
        else if (len > 6 && memcmp(at, "every=", 6) == 0)
            st = parse_every(at + 6, len - 6, &p.every_steps, err);
        else if (!is_word(at, len, "none"))
            st = err_set(err, CKPT_INVALID,
                         "\"%.*s\" is no policy: all, none, every=STEPS, tagged, last, or several "
                         "with commas between them",
                         (int)len, at);
        if (st != CKPT_OK)
            return st;
        at += len;
        if (!*at)
            break;
    }
    *ret = all ? (struct policy){ 0 } : p;
    return CKPT_OK;
}

/* By the parent that the commit names, so that nothing else must be known: whichever save
 * comes first behind a multiple goes, whatever the distance of saves is. */
static bool crosses(uint64_t every, const struct record_commit *c)
{
    return !c->has_parent || c->parent.step > c->name.step ||
           c->parent.step / every < c->name.step / every;
}

bool policy_takes(const struct policy *p, bool tagged, bool last)
{
    return !p->some || (p->tagged && tagged) || (p->last && last);
}

bool policy_wants(const struct policy *p, const struct record_commit *commit, bool tagged,
                  bool last)
{
    return policy_takes(p, tagged, last) || (p->every_steps && crosses(p->every_steps, commit));
}
