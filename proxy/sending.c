#include "proxy/sending.h"

#include <errno.h>
#include <microhttpd.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/sendfile.h"

enum { BLOCK_SIZE = 32 * 1024 }; /* of an answer that can't go by sendfile */

/* What comes next of the note, and how much: 0, the answer's own bytes come first, or only they. */
static size_t note_is_due(struct server_part *p, const char **from)
{
    if (p->note.len > 0 && p->note_offset < 0)
        p->note_offset = answer_note_offset(p->reader.answer);
    if (p->note_offset < 0 || p->reader.offset != (uint64_t)p->note_offset)
        return 0;
    *from = p->note.data + p->note_sent;
    return p->note.len - p->note_sent;
}

/* How many of so many bytes of the answer stand before the note. */
static size_t before_note(const struct server_part *p, size_t len)
{
    uint64_t at = (uint64_t)p->note_offset;

    if (p->note_offset < 0 || p->note_sent == p->note.len || at < p->reader.offset)
        return len;
    return at - p->reader.offset < len ? (size_t)(at - p->reader.offset) : len;
}

/* Reads the answer with the note put in.  As answer_reader_read(). */
static ssize_t read_with_note(struct server_part *p, char *buf, size_t len)
{
    const char *note;
    size_t n = note_is_due(p, &note);

    if (n == 0)
        return answer_reader_read(&p->reader, buf, before_note(p, len));
    n = n < len ? n : len;
    memcpy(buf, note, n);
    p->note_sent += n;
    return (ssize_t)n;
}

static ssize_t on_send(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct server_part *p = cls;
    ssize_t n = read_with_note(p, buf, max);

    (void)pos;
    if (n > 0) {
        p->body_sent += (uint64_t)n;
        return n;
    }
    if (n == READER_END)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == READER_FAILED)
        return MHD_CONTENT_READER_END_WITH_ERROR; /* no last chunk: the client sees the break */
    part_sleep_until_more(p);
    return 0;
}

/* As send_step(): from the file, or where fd is -1 from memory. */
static ssize_t send_bytes(int to, int fd, uint64_t offset, const char *from, size_t len)
{
    ssize_t n;

    do
        n = fd >= 0 ? sendfile_step(to, fd, offset, len)
                    : send(to, from, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return n;
    /* Else the client is gone, or the disk lost what it had taken. */
    return n < 0 && errno == EAGAIN ? 0 : READER_FAILED;
}

static ssize_t send_note(struct server_part *p, int to, const char *from, size_t len)
{
    ssize_t n = send_bytes(to, -1, 0, from, len);

    if (n > 0)
        p->note_sent += (size_t)n;
    return n;
}

static ssize_t send_answer(struct server_part *p, int to, size_t wanted)
{
    char block[BLOCK_SIZE];
    int fd;
    ssize_t n = answer_reader_look(&p->reader, block, sizeof(block), &fd);
    size_t len;

    if (n == READER_WAIT || n == READER_FAILED)
        return n;
    if (n == READER_END)
        return READER_FAILED; /* libmicrohttpd asks for more than was promised */
    len = sendfile_bounded(n < SENDFILE_STEP ? (size_t)n : SENDFILE_STEP,
                           p->body_len - p->body_sent, wanted);
    n = send_bytes(to, fd, p->reader.offset, block, before_note(p, len));
    if (n > 0)
        answer_reader_take(&p->reader, (size_t)n);
    return n;
}

/* Bytes that the socket took; 0: it takes no more now; or what the reader says, where that is no
 * bytes. */
static ssize_t send_step(struct server_part *p, int to, size_t wanted)
{
    const char *note;
    size_t due = note_is_due(p, &note);
    ssize_t n = due > 0 ? send_note(p, to, note, due) : send_answer(p, to, wanted);

    if (n > 0)
        p->body_sent += (uint64_t)n;
    return n;
}

/* Takes the place of libmicrohttpd's sendfile.  What is less than it wants
 * it takes for a full socket, which it is told of once that isn't full any more: so where it's
 * something else the connection sleeps, and is called again. */
static ssize_t on_sendfile(void *cls, int to, size_t wanted)
{
    struct server_part *p = cls;
    size_t sent = 0;
    ssize_t n = 1;

    while (sent < wanted && (n = send_step(p, to, wanted - sent)) > 0)
        sent += (size_t)n;
    if (n == READER_WAIT || (n < 0 && sent > 0)) {
        sendfile_push(to); /* also of what an earlier call has sent */
        part_sleep_until_more(p);
    }
    if (sent > 0)
        return (ssize_t)sent;
    /* With anything else but these it would go on to read the file itself. */
    errno = n == READER_FAILED ? EBADF : EAGAIN;
    return -1;
}

/* Where the file still grows the body goes out behind whoever writes it. */
static struct MHD_Response *response_by_sendfile(struct server_part *p, uint64_t size)
{
    int fd = answer_dup_fd(p->reader.answer);
    struct MHD_Response *r;

    if (fd < 0)
        return NULL;
    p->body_len = size + p->note.len;
    r = sendfile_instead(fd, on_sendfile, p)
            ? MHD_create_response_from_fd_at_offset64(p->body_len, fd, 0)
            : NULL;
    if (r == NULL)
        close(fd);
    return r;
}

/* By sendfile where the body's length is known, and it lies in a file as far as it has come. */
static struct MHD_Response *response_for_stream(struct server_part *p)
{
    struct answer *a = p->reader.answer;
    bool whole = answer_state(a) == ANSWER_WHOLE;
    int64_t promised = answer_promised_size(a);
    bool known = whole || promised >= 0;
    uint64_t size = whole ? answer_size(a) : (uint64_t)promised;
    struct MHD_Response *r = NULL;

    if (known && size == 0) {
        p->stream = false;
        return MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    }
    p->note_offset = answer_note_offset(a);
    if (known && p->note_offset < 0)
        bytes_reset(&p->note); /* no sideband: nowhere to put it */
    /* What TLS has to encrypt can't go by sendfile. */
    if (known && !p->server->tls)
        r = response_by_sendfile(p, size);
    if (r != NULL)
        return r;
    return MHD_create_response_from_callback(known ? size + p->note.len : MHD_SIZE_UNKNOWN,
                                             BLOCK_SIZE, on_send, p, NULL);
}

static void set_header(struct MHD_Response *r, const char *name, const char *value)
{
    if (value != NULL)
        MHD_add_response_header(r, name, value);
}

bool sending_start(struct server_part *p)
{
    struct MHD_Response *r;
    enum MHD_Result rc;
    bool draining;

    if (p->stream)
        r = response_for_stream(p);
    else
        r = MHD_create_response_from_buffer(p->body_len, p->body, MHD_RESPMEM_PERSISTENT);
    if (r == NULL)
        return false;
    set_header(r, "Content-Type", p->content_type);
    set_header(r, "X-Request-Id", p->x.id);
    for (size_t i = 0; i < p->header_count; i++)
        set_header(r, p->headers[i].name, p->headers[i].value);
    lock_take(&p->server->lock);
    draining = p->server->draining;
    lock_drop(&p->server->lock);
    if (draining)
        set_header(r, "Connection", "close");
    p->first_byte_us = now_us();
    p->queued = true;
    rc = MHD_queue_response(p->connection, (unsigned)p->status, r);
    MHD_destroy_response(r);
    return rc == MHD_YES;
}
