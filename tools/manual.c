/* See manual.h. */
#include "tools/manual.h"

#include <ctype.h>

#include "libckpt/ckpt.h"

/* Text as it stands: a backslash, and a dot or quote at the beginning of a line, mean
 * something to roff. */
static void literal(FILE *to, const char *text)
{
    bool at_start = true;
    fputs(".nf\n", to);
    for (; *text; text++) {
        if (at_start && (*text == '.' || *text == '\''))
            fputs("\\&", to);
        if (*text == '\\')
            fputs("\\e", to);
        else if (*text == '-')
            fputs("\\-", to);
        else
            fputc(*text, to);
        at_start = *text == '\n';
    }
    fputs("\n.fi\n", to);
}

static void upper(FILE *to, const char *text)
{
    for (; *text; text++)
        fputc(toupper((unsigned char)*text), to);
}

void manual_page(FILE *to, const struct tool_verb *v, const struct tool_verb *const *verbs,
                 size_t count, const char *overview)
{
    fputs(".TH CKPT", to);
    if (v) {
        fputs("\\-", to);
        upper(to, v->name);
    }
    fprintf(to, " 1 \"\" \"ckpt %s\"\n.SH NAME\nckpt%s%s \\- %s\n", ckpt_version(), v ? "\\-" : "",
            v ? v->name : "",
            v ? v->summary : "checkpoints of training jobs: look at them, verify, restore, save");
    fputs(".SH SYNOPSIS\n", to);
    char usage[512];
    snprintf(usage, sizeof(usage), "ckpt [--store URL|DIR] [--json] %s %s", v ? v->name : "VERB",
             v ? v->arguments : "[arguments]");
    literal(to, usage);
    fputs(".SH DESCRIPTION\n", to);
    literal(to, v ? v->help : overview);
    fputs(".SH SEE ALSO\n", to);
    if (v)
        fputs(".BR ckpt (1)\n", to);
    for (size_t i = 0; !v && i < count; i++)
        fprintf(to, ".BR ckpt\\-%s (1)%s\n", verbs[i]->name, i + 1 < count ? "," : "");
}

void manual_words(FILE *to, const struct tool_verb *v, const struct tool_verb *const *verbs,
                  size_t count)
{
    for (size_t i = 0; !v && i < count; i++)
        fprintf(to, "%s\n", verbs[i]->name);
    fputs("--store\n--remote\n--json\n--help\n", to);
    const char *line = v ? v->help : "";
    while (*line) {
        const char *word = line + strspn(line, " ");
        size_t n = strspn(word, "-abcdefghijklmnopqrstuvwxyz0123456789");
        bool said = strncmp(word, "--json", 6) == 0 || strncmp(word, "--remote ", 9) == 0;
        if (strncmp(word, "--", 2) == 0 && word > line && n > 2 && !said)
            fprintf(to, "%.*s\n", (int)n, word);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}
