/* wsload: holds many WebSockets (or event streams, or long polls), and counts what arrives and how late.

   wsload HOST PORT PATH [--mode ws|stream|poll] [--header 'Name: value']... [--hello TEXT] [--ready TEXT]
          [--at-once N] [--mark TEXT] [--unit NS]

   --hello    sent after each handshake; @since in it becomes the socket's position, if it has one
   --ready    a socket is ready once a frame contains this; without it, after the handshake
   --at-once  connections that are being made at the same time (128)
   --mark     what stands before the time in a message ("t":)
   --unit     of that time, in nanoseconds (1)

   A message is whatever contains "t":<ns>, the publisher's CLOCK_REALTIME. Of Fanfare's messages the offsets are
   checked too. Each command on stdin is answered by one line of JSON on stdout, when it is done:

   open N           N more connections: all of them are ready, or have failed
   count N SECONDS  N messages have come since `clear`, or the seconds are over
   clear            forget what was counted
   report           the same answer, and how late the messages were since `clear`
   drop             reset every connection
   back             open again what is closed, with the positions it had
*/

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "counts.h"

#define TEXT_FRAME 1
#define CLOSE_FRAME 8
#define PING_FRAME 9
#define PONG_FRAME 10
#define MAX_HEADERS 16
#define EVENTS 4096
#define NAP_MICROSECONDS 200  /* Between reads, as a network card gathers interrupts: or each send() wakes us up. */

enum mode { WS, STREAM, POLL };
enum state { CLOSED, HANDSHAKE, OPEN, READY };

struct connection {
    int fd;
    enum state state;
    long long offset;    /* The newest that came; -1 before the first. */
    char *since;         /* A poll's place. */
    char *held;          /* The beginning of what has not come as a whole. */
    size_t held_length;
};

static struct {
    struct sockaddr_in server;
    const char *host, *path, *hello, *ready, *mark;
    long long unit;
    const char *headers[MAX_HEADERS];
    int header_count, at_once;
    enum mode mode;
} options = {.at_once = 128, .mark = "\"t\":", .unit = 1};

static struct connection *connections;
static int connection_count, opening, next_to_open;
static long long failed, closed, gaps, repeats, bytes;
static int last_close_code;
static char epoch[80];  /* Of the one topic that all listen to. */
static int poller;
static char buffer[4 << 20];

static long long nanoseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static int count_ready(void)
{
    int count = 0;
    for (int i = 0; i < connection_count; i++)
        count += connections[i].state == READY;
    return count;
}

/* --- A connection's life ---------------------------------------------------------------------- */

static void shut(struct connection *c)
{
    struct linger reset = {1, 0};  /* No TIME_WAIT: thousands come back at once. */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(c->fd);
    opening -= c->state == HANDSHAKE || c->state == OPEN;
    c->state = CLOSED;
    c->held_length = 0;
}

static void lose(struct connection *c)
{
    if (c->state == READY)
        closed++;
    else
        failed++;
    shut(c);
}

static void send_bytes(struct connection *c, const char *data, size_t length)
{
    if (send(c->fd, data, length, MSG_NOSIGNAL) != (ssize_t)length)
        lose(c);
}

static void become_ready(struct connection *c)
{
    c->state = READY;
    opening--;
}

static void ask(struct connection *c)
{
    char request[8192];
    int length = snprintf(request, sizeof request, "GET %s%s%s HTTP/1.1\r\nHost: %s\r\n", options.path,
                          c->since ? "&since=" : "", c->since ? c->since : "", options.host);
    if (options.mode == WS)
        length += snprintf(request + length, sizeof request - length,
                           "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    for (int i = 0; i < options.header_count; i++)
        length += snprintf(request + length, sizeof request - length, "%s\r\n", options.headers[i]);
    length += snprintf(request + length, sizeof request - length, "\r\n");
    send_bytes(c, request, length);
}

static void begin(struct connection *c)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&options.server, sizeof options.server) < 0) {
        failed++;
        if (c->fd >= 0)
            close(c->fd);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    c->state = HANDSHAKE;
    opening++;
    ask(c);
}

static void open_more(void)
{
    while (opening < options.at_once && next_to_open < connection_count) {
        struct connection *c = &connections[next_to_open++];
        if (c->state == CLOSED)
            begin(c);
    }
}

/* --- What a socket says ----------------------------------------------------------------------- */

static void send_frame(struct connection *c, int kind, const char *payload, size_t size)
{
    char frame[4096] = {(char)(0x80 | kind)};
    size_t head = 2;
    if (size > sizeof frame - 8)
        return;
    if (size < 126) {
        frame[1] = (char)(0x80 | size);
    } else {
        frame[1] = (char)(0x80 | 126);
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
        head = 4;
    }
    head += 4;  /* A mask of zeros changes nothing. */
    memcpy(frame + head, payload, size);
    send_bytes(c, frame, head + size);
}

static void say_hello(struct connection *c)
{
    char hello[4096], since[256] = "";
    const char *mark = strstr(options.hello, "@since");
    if (c->offset >= 0 && epoch[0])
        snprintf(since, sizeof since, ",\"since\":{\"epoch\":\"%s\",\"offset\":%lld}", epoch, c->offset);
    if (mark)
        snprintf(hello, sizeof hello, "%.*s%s%s", (int)(mark - options.hello), options.hello, since, mark + 6);
    else
        snprintf(hello, sizeof hello, "%s", options.hello);
    send_frame(c, TEXT_FRAME, hello, strlen(hello));
}

/* --- What it hears ---------------------------------------------------------------------------- */

static const char *find(const char *text, size_t size, const char *what)
{
    return memmem(text, size, what, strlen(what));
}

static bool starts(const char *text, size_t size, const char *what)
{
    return size >= strlen(what) && memcmp(text, what, strlen(what)) == 0;
}

static void keep_text(char *into, size_t room_for, const char *from, size_t size)
{
    const char *quote = memchr(from, '"', size);
    if (quote && (size_t)(quote - from) < room_for) {
        memcpy(into, from, quote - from);
        into[quote - from] = 0;
    }
}

/* Fanfare's offsets of one topic have no gap and no repeat. */
static void check_position(struct connection *c, const char *text, size_t size)
{
    bool is_message = starts(text, size, "{\"event\":\"message\"");
    bool is_subscribed = starts(text, size, "{\"event\":\"subscribed\"");
    const char *at = is_message || is_subscribed ? find(text, size, "\"offset\":") : NULL;
    if (!at || at[9] < '0' || at[9] > '9')
        return;
    long long offset = strtoll(at + 9, NULL, 10);
    if (is_message && c->offset >= 0) {
        repeats += offset <= c->offset;
        gaps += offset > c->offset ? offset - c->offset - 1 : 0;
    }
    if (is_subscribed) {
        const char *name = find(text, size, "\"epoch\":\"");
        if (name)
            keep_text(epoch, sizeof epoch, name + 9, text + size - name - 9);
        if (c->offset >= 0 && offset > c->offset)
            gaps += offset - c->offset;
    }
    if (offset > c->offset)
        c->offset = offset;
}

static void take(struct connection *c, const char *text, size_t size, long long now)
{
    const char *at = text, *end = text + size;
    check_position(c, text, size);
    while ((at = find(at, end - at, options.mark)) != NULL) {
        at += strlen(options.mark);
        count_message(strtoll(at, NULL, 10) * options.unit, now);
    }
    if (c->state == OPEN && options.ready && find(text, size, options.ready))
        become_ready(c);
}

static void hear_frame(struct connection *c, int kind, const char *payload, size_t size, long long now)
{
    if (kind == PING_FRAME) {
        send_frame(c, PONG_FRAME, payload, size);
    } else if (kind == CLOSE_FRAME) {
        last_close_code = size >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        lose(c);
    } else if (kind != PONG_FRAME) {
        take(c, payload, size, now);
    }
}

static size_t hear_frames(struct connection *c, const char *data, size_t length, long long now)
{
    size_t used = 0;
    while (length - used >= 2 && c->state != CLOSED) {
        const unsigned char *frame = (const unsigned char *)data + used;
        size_t head = frame[1] == 127 ? 10 : frame[1] == 126 ? 4 : 2;
        uint64_t size = head == 2 ? frame[1] : 0;
        if (length - used < head)
            break;
        for (size_t i = 2; i < head; i++)
            size = size << 8 | frame[i];
        if (length - used - head < size)
            break;
        hear_frame(c, frame[0] & 15, data + used + head, size, now);
        used += head + size;
    }
    return used;
}

static size_t hear_lines(struct connection *c, const char *data, size_t length, long long now)
{
    size_t used = 0;
    const char *end;
    while ((end = memchr(data + used, '\n', length - used)) != NULL) {
        size_t size = end - data - used;
        if (starts(data + used, size, "data: "))
            take(c, data + used + 6, size - 6, now);
        used += size + 1;
    }
    return used;
}

/* A whole reply with its head; asks again from the place that it names. */
static size_t hear_reply(struct connection *c, const char *data, size_t length, long long now)
{
    const char *body = find(data, length, "\r\n\r\n"), *size_at = find(data, length, "content-length: ");
    if (!body || !size_at)
        return 0;
    size_t head = body + 4 - data, size = strtoull(size_at + 16, NULL, 10);
    if (length - head < size)
        return 0;
    if (!starts(data, length, "HTTP/1.1 200")) {
        lose(c);
        return length;
    }
    body += 4;
    take(c, body, size, now);
    const char *since = find(body, size, "],\"since\":\"");
    if (since) {
        free(c->since);
        c->since = calloc(1, 4096);
        keep_text(c->since, 4096, since + 11, body + size - since - 11);
    }
    if (c->state == HANDSHAKE)
        become_ready(c);
    ask(c);
    return head + size;
}

static size_t hear_handshake(struct connection *c, const char *data, size_t length)
{
    const char *end = find(data, length, "\r\n\r\n");
    if (!end)
        return 0;
    if (!starts(data, length, options.mode == WS ? "HTTP/1.1 101" : "HTTP/1.1 200")) {
        if (failed == 0)
            fprintf(stderr, "wsload: refused: %.*s\n", (int)length, data);
        lose(c);
        return length;
    }
    c->state = OPEN;
    if (options.hello)
        say_hello(c);
    if (!options.ready)
        become_ready(c);
    return end + 4 - data;
}

static size_t hear(struct connection *c, const char *data, size_t length, long long now)
{
    size_t used = 0;
    if (options.mode == POLL)
        return hear_reply(c, data, length, now);
    if (c->state == HANDSHAKE)
        used = hear_handshake(c, data, length);
    if (c->state == OPEN || c->state == READY)
        used += (options.mode == WS ? hear_frames : hear_lines)(c, data + used, length - used, now);
    return used;
}

static void hold(struct connection *c, const char *rest, size_t length)
{
    c->held_length = length;
    if (length > 0) {
        c->held = realloc(c->held, length);
        memcpy(c->held, rest, length);
    }
}

static void read_from(struct connection *c)
{
    size_t held = c->held_length;
    if (c->state == CLOSED)
        return;
    memcpy(buffer, c->held ? c->held : "", held);
    ssize_t got = recv(c->fd, buffer + held, sizeof buffer - held - 1, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            lose(c);
        return;
    }
    bytes += got;
    buffer[held + got] = 0;  /* Numbers end. */
    size_t used = hear(c, buffer, held + got, nanoseconds(CLOCK_REALTIME));
    if (c->state != CLOSED)
        hold(c, buffer + used, held + got - used);
}

/* --- Commands --------------------------------------------------------------------------------- */

static struct {
    enum { NOTHING, CONNECTIONS, MESSAGES } for_what;
    size_t count;
    long long started, deadline;
} wait_for;

static void say_counts(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("\"seconds\":%.6f,\"ready\":%d,\"failed\":%lld,\"closed\":%lld,\"close_code\":%d,\"messages\":%zu,"
           "\"gaps\":%lld,\"repeats\":%lld,\"bytes\":%lld,\"cpu\":%.3f",
           (nanoseconds(CLOCK_MONOTONIC) - wait_for.started) / 1e9, count_ready(), failed, closed, last_close_code,
           messages, gaps, repeats, bytes,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static void say_delays(void)
{
    struct spread last = spread_of_last(), each = spread_of(delays, messages);
    printf(",\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"last_p50\":%.3f,\"last_p99\":%.3f,\"last_max\":%.3f",
           each.p50, each.p99, each.max, last.p50, last.p99, last.max);
}

static void answer(bool with_delays)
{
    printf("{");
    say_counts();
    if (with_delays)
        say_delays();
    printf("}\n");
    fflush(stdout);
    wait_for.for_what = NOTHING;
}

static void answer_when_done(void)
{
    bool all_settled = opening == 0 && next_to_open == connection_count;
    bool over = nanoseconds(CLOCK_MONOTONIC) > wait_for.deadline;
    if ((wait_for.for_what == CONNECTIONS && all_settled) ||
        (wait_for.for_what == MESSAGES && (messages >= wait_for.count || over)))
        answer(false);
}

static void add_connections(int count)
{
    if (connection_count + count > 1 << 17)
        exit(2);
    for (int i = 0; i < count; i++)
        connections[connection_count + i] = (struct connection){.state = CLOSED, .offset = -1};
    next_to_open = connection_count;
    connection_count += count;
}

static void drop_all(void)
{
    for (int i = 0; i < connection_count; i++)
        if (connections[i].state != CLOSED)
            shut(&connections[i]);
}

static void carry_out(const char *command)
{
    size_t count = 0;
    double seconds = 0;
    wait_for.started = nanoseconds(CLOCK_MONOTONIC);
    if (sscanf(command, "open %zu", &count) == 1) {
        add_connections((int)count);
        wait_for.for_what = CONNECTIONS;
    } else if (sscanf(command, "count %zu %lf", &count, &seconds) == 2) {
        wait_for.for_what = MESSAGES;
        wait_for.count = count;
        wait_for.deadline = wait_for.started + (long long)(seconds * 1e9);
    } else if (starts(command, strlen(command), "back")) {
        next_to_open = 0;
        wait_for.for_what = CONNECTIONS;
    } else if (starts(command, strlen(command), "clear")) {
        clear_counts();
        failed = closed = gaps = repeats = bytes = 0;
        answer(false);
    } else if (starts(command, strlen(command), "report")) {
        answer(true);
    } else if (starts(command, strlen(command), "drop")) {
        drop_all();
        answer(false);
    } else {
        exit(2);
    }
}

/* One command at a time: the next one is sent after the answer. */
static void read_command(void)
{
    char command[256];
    ssize_t length = read(STDIN_FILENO, command, sizeof command - 1);
    if (length <= 0)
        exit(0);
    command[length] = 0;
    carry_out(command);
}

static void parse_options(int count, char **words)
{
    if (count < 4) {
        fprintf(stderr, "usage: wsload HOST PORT PATH [options]\n");
        exit(2);
    }
    options.host = words[1];
    options.path = words[3];
    options.server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[2]))};
    inet_pton(AF_INET, words[1], &options.server.sin_addr);
    for (int i = 4; i + 1 < count; i += 2) {
        if (strcmp(words[i], "--header") == 0 && options.header_count < MAX_HEADERS)
            options.headers[options.header_count++] = words[i + 1];
        else if (strcmp(words[i], "--hello") == 0)
            options.hello = words[i + 1];
        else if (strcmp(words[i], "--ready") == 0)
            options.ready = words[i + 1];
        else if (strcmp(words[i], "--at-once") == 0)
            options.at_once = atoi(words[i + 1]);
        else if (strcmp(words[i], "--mark") == 0)
            options.mark = words[i + 1];
        else if (strcmp(words[i], "--unit") == 0)
            options.unit = atoll(words[i + 1]);
        else if (strcmp(words[i], "--mode") == 0)
            options.mode = words[i + 1][0] == 'w' ? WS : words[i + 1][0] == 's' ? STREAM : POLL;
        else
            exit(2);
    }
}

int main(int count, char **words)
{
    struct epoll_event events[EVENTS];
    parse_options(count, words);
    poller = epoll_create1(0);
    connections = calloc(1 << 17, sizeof *connections);
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, 10);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr)
                read_from(events[i].data.ptr);
            else
                read_command();
        open_more();
        answer_when_done();
        usleep(NAP_MICROSECONDS);
    }
}
