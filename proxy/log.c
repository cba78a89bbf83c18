#include "proxy/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "proxy/metrics.h"

/* Lines that wait for stderr; further ones are dropped and counted. */
enum { QUEUE_LINES = 4096 };
/* A longer value is cut and ends in "...": what a client sends must not fill the log. */
enum { VALUE_MAX_BYTES = 1024 };
/* All fields together; those that would pass it are left out.  With the queue: 64 MiB at worst. */
enum { LINE_MAX_BYTES = 16384 };
/* log_stop() waits so long for a stuck stderr, then leaves the rest unwritten. */
enum { STOP_WAIT_MS = 2000 };

struct line {
    char *text;
    size_t len;
};

static struct {
    struct lock lock;
    pthread_cond_t filled;
    pthread_cond_t drained; /* stopped and nothing left */
    struct line ring[QUEUE_LINES];
    size_t first, count;
    uint64_t dropped;
    bool running, stopping, finished;
    pthread_t thread;
} queue;

/* A line may be logged before log_start(). */
static pthread_once_t queue_once = PTHREAD_ONCE_INIT;

static atomic_int format_now = LOG_TEXT;
static atomic_int level_now = LOG_INFO;
static _Atomic(log_listener_fn *) listener;

static void queue_init(void)
{
    lock_init(&queue.lock, LOCK_LOG);
    lock_cond_init(&queue.filled);
    lock_cond_init(&queue.drained);
}

static void queue_lock(void)
{
    pthread_once(&queue_once, queue_init);
    lock_take(&queue.lock);
}

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};

    must((size_t)level < ARRAY_LEN(names));
    return names[level];
}

/* Making a line.  Each function appends or, beyond the limit, does not; nobody asks which. */

static void add(struct bytes *b, const char *s)
{
    (void)bytes_add_str(b, s);
}

static void add_time(struct bytes *b)
{
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    (void)bytes_addf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900, tm.tm_mon + 1,
                     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
}

/* '\n' and its like by their letter, what else is not printable ASCII in hex: a terminal must not
 * obey a repository's name, and one event stays one line. */
static void add_text_byte(struct bytes *b, unsigned char c)
{
    switch (c) {
    case '\n': add(b, "\\n"); return;
    case '\r': add(b, "\\r"); return;
    case '\t': add(b, "\\t"); return;
    default: break;
    }
    if (c < ' ' || c >= 0x7f)
        (void)bytes_addf(b, "\\x%02x", c);
    else
        (void)bytes_add(b, &c, 1);
}

static bool text_needs_quotes(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f || strchr("\"\\=", s[i]))
            return true;
    return len == 0;
}

static void add_text_string(struct bytes *b, const char *s, size_t len)
{
    bool quotes = text_needs_quotes(s, len);

    add(b, quotes ? "\"" : "");
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '"' || s[i] == '\\')
            add(b, "\\");
        add_text_byte(b, (unsigned char)s[i]);
    }
    add(b, quotes ? "\"" : "");
}

/* The code point that s begins with and its length; U+FFFD and 1 when it is not UTF-8. */
static uint32_t utf8_read(const unsigned char *s, size_t left, size_t *len)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = *s < 0x80 ? 1 : *s >> 5 == 6 ? 2 : *s >> 4 == 14 ? 3 : *s >> 3 == 30 ? 4 : 0;
    uint32_t point = n == 1 ? *s : *s & (0x7fu >> n);

    *len = 1;
    if (n == 0 || n > left)
        return 0xfffd;
    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2)
            return 0xfffd;
        point = point << 6 | (s[i] & 0x3f);
    }
    if (point < least[n] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
        return 0xfffd;
    *len = n;
    return point;
}

static void add_json_point(struct bytes *b, uint32_t point)
{
    char c = (char)point;

    if (point == '"' || point == '\\') {
        add(b, "\\");
        (void)bytes_add(b, &c, 1);
    } else if (point >= ' ' && point < 0x7f) {
        (void)bytes_add(b, &c, 1);
    } else if (point < 0x10000) {
        (void)bytes_addf(b, "\\u%04" PRIx32, point);
    } else {
        (void)bytes_addf(b, "\\u%04" PRIx32 "\\u%04" PRIx32, 0xd7c0 + (point >> 10),
                         0xdc00 + (point & 0x3ff));
    }
}

static void add_json_string(struct bytes *b, const char *s, size_t len)
{
    size_t n;

    add(b, "\"");
    for (size_t i = 0; i < len; i += n)
        add_json_point(b, utf8_read((const unsigned char *)s + i, len - i, &n));
    add(b, "\"");
}

static void add_string(struct bytes *b, enum log_format format, const char *s)
{
    char cut[VALUE_MAX_BYTES + sizeof("...")];
    size_t len = strnlen(s, VALUE_MAX_BYTES + 1);

    if (len > VALUE_MAX_BYTES) {
        memcpy(cut, s, VALUE_MAX_BYTES);
        memcpy(cut + VALUE_MAX_BYTES, "...", sizeof("..."));
        s = cut;
        len = VALUE_MAX_BYTES + 3;
    }
    if (format == LOG_JSON)
        add_json_string(b, s, len);
    else
        add_text_string(b, s, len);
}

static void add_name(struct bytes *b, enum log_format format, const char *name)
{
    (void)bytes_addf(b, format == LOG_JSON ? ",\"%s\":" : " %s=", name);
}

static void add_head(struct bytes *b, enum log_format format, enum log_level level,
                     const char *event)
{
    if (format == LOG_JSON) {
        add(b, "{\"time\":\"");
        add_time(b);
        (void)bytes_addf(b, "\",\"level\":\"%s\",\"event\":", log_level_name(level));
        add_string(b, format, event);
        return;
    }
    add_time(b);
    (void)bytes_addf(b, " %s ", log_level_name(level));
    for (; *event; event++)
        add_text_byte(b, (unsigned char)*event);
}

static void add_field(struct bytes *b, enum log_format format, const char *name, va_list *ap)
{
    const char *string;
    uint64_t number;

    switch (va_arg(*ap, int)) {
    case LOG_STR:
        string = va_arg(*ap, const char *);
        if (!string)
            return;
        add_name(b, format, name);
        add_string(b, format, string);
        return;
    case LOG_U64:
        add_name(b, format, name);
        (void)bytes_addf(b, "%" PRIu64, va_arg(*ap, uint64_t));
        return;
    case LOG_NO_U64: (void)va_arg(*ap, uint64_t); return;
    case LOG_MS:
        number = va_arg(*ap, uint64_t);
        add_name(b, format, name);
        (void)bytes_addf(b, "%" PRIu64 ".%" PRIu64, number / 1000, number % 1000 / 100);
        return;
    default: must(!"a log field of a known type");
    }
}

static struct line line_format(enum log_format format, enum log_level level, const char *event,
                               va_list *ap)
{
    enum { FIELD_MAX_BYTES = 8 * VALUE_MAX_BYTES }; /* every byte may become six */
    struct bytes b, field;
    struct line line;
    const char *name;

    bytes_init(&b, LINE_MAX_BYTES);
    bytes_init(&field, FIELD_MAX_BYTES);
    add_head(&b, format, level, event);
    while ((name = va_arg(*ap, const char *)) != NULL) {
        /* Whole fields only, and room for the end: a cut line would be no JSON. */
        bytes_reset(&field);
        add_field(&field, format, name, ap);
        if (b.len + field.len + 2 <= LINE_MAX_BYTES)
            (void)bytes_add(&b, field.data ? field.data : "", field.len);
    }
    add(&b, format == LOG_JSON ? "}\n" : "\n");
    bytes_clear(&field);
    line.text = bytes_take(&b, &line.len);
    return line;
}

/* Writing.  Consumes the line; what stderr does not take at all is lost, as nobody could be told.
 */

static void line_write(struct line line)
{
    for (size_t done = 0; done < line.len;) {
        ssize_t n = write(STDERR_FILENO, line.text + done, line.len - done);
        struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

        if (n >= 0)
            done += (size_t)n;
        else if (errno == EAGAIN) /* somebody shares a non-blocking stderr with us */
            poll(&p, 1, -1);
        else if (errno != EINTR)
            break;
    }
    free(line.text);
}

static struct line __attribute__((sentinel)) line_make(enum log_level level, const char *event, ...)
{
    struct line line;
    va_list ap;

    va_start(ap, event);
    line = line_format((enum log_format)atomic_load(&format_now), level, event, &ap);
    va_end(ap);
    return line;
}

/* Wait for lines; false when there are none left to come. */
static bool queue_take(struct line *line, uint64_t *dropped)
{
    bool taken;

    queue_lock();
    while (queue.count == 0 && !queue.stopping)
        lock_wait(&queue.lock, &queue.filled);
    taken = queue.count > 0;
    *dropped = 0;
    if (taken) {
        *line = queue.ring[queue.first];
        queue.first = (queue.first + 1) % QUEUE_LINES;
        queue.count--;
    }
    /* Told when what was queued before the loss is out: the report stands where lines lack. */
    if (queue.count == 0) {
        *dropped = queue.dropped;
        queue.dropped = 0;
    }
    lock_drop(&queue.lock);
    return taken;
}

static void *queue_write(void *unused)
{
    uint64_t dropped;
    struct line line;

    while (queue_take(&line, &dropped)) {
        line_write(line);
        if (dropped > 0)
            line_write(line_make(LOG_WARN, "log lines dropped", "count", LOG_U64, dropped, NULL));
    }
    queue_lock();
    queue.finished = true;
    pthread_cond_signal(&queue.drained);
    lock_drop(&queue.lock);
    return unused;
}

/* false: nobody would write it; the line is still the caller's. */
static bool queue_put(struct line line)
{
    bool running;

    queue_lock();
    running = queue.running;
    if (running && queue.count < QUEUE_LINES) {
        queue.ring[(queue.first + queue.count++) % QUEUE_LINES] = line;
        line.text = NULL;
        pthread_cond_signal(&queue.filled);
    } else if (running) {
        queue.dropped++;
        metrics_count(CELL_LOG_DROPPED, 1);
    }
    lock_drop(&queue.lock);
    if (running)
        free(line.text);
    return running;
}

void log_set(enum log_format format, enum log_level level)
{
    atomic_store(&format_now, format);
    atomic_store(&level_now, level);
}

void log_start(enum log_format format, enum log_level level)
{
    sigset_t all, old;

    log_set(format, level);
    must(!queue.running);
    queue.stopping = queue.finished = false;
    /* Signals are other threads' business; SIGPIPE from a closed stderr stays pending here. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    /* Without a thread the lines are written by their callers: slower, but written. */
    queue.running = pthread_create(&queue.thread, NULL, queue_write, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void log_stop(void)
{
    uint64_t deadline_ms = now_ms() + STOP_WAIT_MS;
    bool finished, in_time = true;

    queue_lock();
    if (!queue.running) {
        lock_drop(&queue.lock);
        return;
    }
    queue.running = false;
    queue.stopping = true;
    pthread_cond_signal(&queue.filled);
    while (!queue.finished && in_time)
        in_time = lock_wait_until(&queue.lock, &queue.drained, deadline_ms);
    finished = queue.finished;
    lock_drop(&queue.lock);
    if (finished)
        pthread_join(queue.thread, NULL);
    else
        pthread_detach(queue.thread);
}

enum log_level log_get_level(void)
{
    return (enum log_level)atomic_load(&level_now);
}

void log_set_level(enum log_level level)
{
    atomic_store(&level_now, level);
}

bool log_level_parse(const char *name, enum log_level *out)
{
    for (enum log_level level = LOG_DEBUG; level <= LOG_ERROR; level++)
        if (strcmp(log_level_name(level), name) == 0) {
            *out = level;
            return true;
        }
    return false;
}

void log_listen(log_listener_fn *fn)
{
    atomic_store(&listener, fn);
}

static void tell_listener(log_listener_fn *fn, enum log_level level, const char *event, va_list *ap)
{
    struct line line = line_format(LOG_JSON, level, event, ap);

    fn(line.text, line.len - 1);
    free(line.text);
}

void log_line(enum log_level level, const char *event, ...)
{
    log_listener_fn *fn = atomic_load(&listener);
    struct line line;
    va_list ap;

    if (fn != NULL && level >= LOG_INFO) {
        va_start(ap, event);
        tell_listener(fn, level, event, &ap);
        va_end(ap);
    }
    if ((int)level < atomic_load(&level_now))
        return;
    va_start(ap, event);
    line = line_format((enum log_format)atomic_load(&format_now), level, event, &ap);
    va_end(ap);
    if (!queue_put(line))
        line_write(line);
}
