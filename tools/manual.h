/* The words of --help in other shapes: pages of the manual, and what a shell completes. */
#pragma once

#include <stdio.h>

#include "tools/tool.h"

/* A page of section 1 in roff: of the verb, or (NULL) of ckpt itself with its `overview`. */
void manual_page(FILE *to, const struct tool_verb *v, const struct tool_verb *const *verbs,
                 size_t count, const char *overview);
/* The words that may follow: verbs (v NULL), or the options that the verb's help shows at
 * the beginning of a line, one a line. */
void manual_words(FILE *to, const struct tool_verb *v, const struct tool_verb *const *verbs,
                  size_t count);
