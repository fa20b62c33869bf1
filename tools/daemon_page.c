/* Asking for the page, and reading it. */
#include "tools/daemon_page.h"

#include <sys/mman.h>

#include "formats/status_ask.h"

enum ckpt_status daemon_page(const struct tool *t, const char *socket, json_t **ret,
                             struct ckpt_err *err)
{
    char path[SOCKPATH_MAX];
    const char *text;
    size_t len;
    json_error_t why;
    enum ckpt_status st = tool_socket(t, socket, path, err);
    if (st == CKPT_OK)
        st = status_ask(path, STATUS_ASK_MS, &text, &len, err);
    if (st != CKPT_OK)
        return st;
    json_t *page = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    munmap((void *)(uintptr_t)text, len);
    if (!page)
        return err_set(err, CKPT_CORRUPT, "ckptd's status page is no JSON: %s", why.text);
    *ret = page;
    return CKPT_OK;
}
