/* Settings that the keeper has read again.  It has found them sound, named in the log what
 * changed, and will give them to later workers; here they come into force. */
#include <sys/mman.h>
#include <sys/stat.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "ckptd/worker.h"

/* The same file, environment and flags through the same reader. */
static enum ckpt_status read_again(const struct control *c, const char *text, size_t len,
                                   struct config **ret, struct config_errors *errors)
{
    const struct worker *w = c->worker;
    struct config_input in = *w->input;
    in.text = text;
    in.text_len = len;
    return config_reload(&in, w->start, c->config, NULL, NULL, ret, errors);
}

static void put_in_force(struct control *c, struct config *next)
{
    config_free(c->reloaded);
    c->config = c->reloaded = next;
    log_set_level(next->log_level);
    for (uint32_t i = 1; i < c->tiers.count; i++)
        store_throttle_set(&c->tiers.throttle[i], next->remote_rate);
    control_prune_begin(c);
    log_info("settings are in force", "file=\"%s\"", next->file ? next->file : "none");
}

void control_reload(struct control *c, int given)
{
    CLEANUP_FD int fd = given;
    struct stat s;
    struct config *next;
    struct config_errors errors = { 0 };
    struct ckpt_err err = { 0 };
    const void *text = NULL;
    if (fd < 0 || !c->worker->input || fstat(fd, &s) < 0)
        return;
    size_t len = (size_t)s.st_size;
    enum ckpt_status st = len ? wire_memfd_map(fd, len, &text, &err) : CKPT_OK;
    if (st == CKPT_OK)
        st = read_again(c, len ? text : "", len, &next, &errors);
    if (st == CKPT_OK)
        put_in_force(c, next);
    else
        log_error("settings stay as they are", "why=\"%s\"",
                  err_text(errors.count ? &errors.list[0] : &err));
    if (text)
        munmap((void *)(uintptr_t)text, len);
}
