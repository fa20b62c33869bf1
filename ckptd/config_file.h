/* ckptd.conf, its lines: what stands where.  It knows no option.
 *
 *     # a comment; behind a blank a # begins one, too
 *     store = /nvme/ckpt
 *
 *     [job llama-*]            settings from here on are for the jobs that fit the pattern
 *     keep = last=10
 *
 * No quotes, no continued lines: a value goes from the first to the last byte that is no
 * blank. */
#pragma once

#include "formats/base.h"

#define CONFIG_FILE_BYTES_MAX (UINT64_C(256) << 10)
#define CONFIG_LINE_MAX       4096

struct config_line {
    unsigned number; /* from 1 */
    const char *job; /* pattern of the section it stands in; NULL: none */
    const char *key; /* NULL: the line opens the section `job` */
    const char *value;
    const char *wrong; /* NULL, or why the line cannot be read, and what to write */
};
/* Reads a whole file.  It must be a plain file of at most CONFIG_FILE_BYTES_MAX that not
 * everybody may write.  *ret: malloc'ed, with NUL. */
enum ckpt_status config_file_read(const char *path, char **ret, size_t *ret_len,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* Takes the next line that says anything; false at the end.  Begin with *at = {0}; the text
 * (len bytes and a NUL) is cut into the strings that come out.  Lines of a section that
 * cannot be read are passed over. */
struct config_cursor {
    size_t pos;
    unsigned number;
    const char *job;
    bool skip;
    char wrong[160];
};
bool config_file_next(char *text, size_t len, struct config_cursor *at, struct config_line *ret);
