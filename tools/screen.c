/* Drawing only what changed. */
#include "tools/screen.h"

#include <sys/ioctl.h>

#define SCREEN_ENTER "\033[?1049h\033[?25l"
#define SCREEN_LEAVE "\033[?25h\033[?1049l"

static void say(const char *bytes)
{
    ssize_t n = write(STDOUT_FILENO, bytes, strlen(bytes));
    (void)n; /* a terminal that is gone shows nothing */
}

void screen_open(struct screen *s)
{
    if (tcgetattr(STDIN_FILENO, &s->before) == 0) {
        struct termios raw = s->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        s->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    say(SCREEN_ENTER);
}

void screen_close(struct screen *s)
{
    say(SCREEN_LEAVE);
    if (s->raw)
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    s->raw = false;
}

static void forget(struct screen *s)
{
    for (size_t i = 0; i < s->line_count; i++)
        free(s->lines[i]);
    free(s->lines);
    s->lines = NULL;
    s->line_count = 0;
}

void screen_fini(struct screen *s)
{
    forget(s);
}

bool screen_measure(struct screen *s)
{
    struct winsize w = { 0 };
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0;
    unsigned rows = known ? w.ws_row : 24, columns = known ? w.ws_col : 80;
    if (rows == s->rows && columns == s->columns)
        return false;
    forget(s);
    s->rows = rows;
    s->columns = columns;
    return true;
}

void screen_clip(const char *line, size_t len, unsigned columns, char *ret)
{
    unsigned used = 0;
    for (size_t i = 0; i < len;) {
        size_t n = 1;
        bool escape = line[i] == '\033' && i + 1 < len && line[i + 1] == '[';
        if (escape)
            while (i + n < len && (n == 1 || line[i + n] < '@'))
                n++;
        n += escape && i + n < len; /* the letter that ends it */
        bool starts = ((unsigned char)line[i] & 0xc0) != 0x80;
        used += !escape && starts;
        if (escape || used <= columns) {
            memcpy(ret, line + i, n);
            ret += n;
        }
        i += n;
    }
    *ret = 0;
}

/* Line `row` of the text, clipped; "" behind the last.  Moves *text on. */
static char *next_line(const struct screen *s, const char **text)
{
    size_t len = strcspn(*text, "\n");
    char *line = malloc(len + 1);
    if (line)
        screen_clip(*text, len, s->columns, line);
    *text += len + ((*text)[len] == '\n');
    return line;
}

static bool draw_lines(struct screen *s, const char *text, char **lines, FILE *to)
{
    bool all = s->lines == NULL;
    if (all)
        fputs("\033[2J", to);
    for (unsigned row = 0; row < s->rows; row++) {
        lines[row] = next_line(s, &text);
        if (!lines[row])
            return false;
        if (all ? lines[row][0] != 0 : strcmp(lines[row], s->lines[row]) != 0)
            fprintf(to, "\033[%u;1H%s\033[0m\033[K", row + 1, lines[row]);
    }
    return true;
}

char *screen_draw(struct screen *s, const char *text, size_t *ret_len)
{
    char *bytes = NULL;
    FILE *to = open_memstream(&bytes, ret_len);
    char **lines = calloc(s->rows, sizeof(*lines));
    bool ok = to && lines && draw_lines(s, text, lines, to);
    ok = (!to || fclose(to) == 0) && ok;
    size_t old = s->rows;
    forget(s);
    s->lines = lines;
    s->line_count = lines ? old : 0;
    if (ok)
        return bytes;
    forget(s); /* the next one draws everything */
    free(bytes);
    return NULL;
}
