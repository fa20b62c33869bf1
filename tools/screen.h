/* A terminal that is drawn on again and again: plain ANSI, nothing of terminfo.
 *
 * Only the lines that changed are sent, in one write, so a slow line carries little and a frame
 * is never seen half.  Pure but for screen_open and screen_close. */
#pragma once

#include <stdio.h>
#include <termios.h>

#include "formats/base.h"

struct screen {
    unsigned rows, columns;
    char **lines; /* what is on it now; owned; NULL = all must be drawn */
    size_t line_count;
    bool raw; /* the terminal's settings are to be put back */
    struct termios before;
};

/* Another screen, without cursor or echo; keys come at once. */
void screen_open(struct screen *s);
/* As it was.  Safe when it was never opened. */
void screen_close(struct screen *s);
/* Asks the terminal on standard output for its size; true if it changed (then everything is
 * drawn anew). */
bool screen_measure(struct screen *s);
/* The bytes that make the screen show `text` (lines; what is too long or too many is cut):
 * malloc'ed, caller frees.  NULL: out of memory.  ret_len 0: it shows that already. */
char *screen_draw(struct screen *s, const char *text, size_t *ret_len);
void screen_fini(struct screen *s);
/* Copies the part of a line that takes at most `columns` on a terminal: escape sequences take
 * none and are all kept, a character of UTF-8 takes one.  ret: strlen(line) + 1 bytes. */
void screen_clip(const char *line, size_t len, unsigned columns, char *ret);
