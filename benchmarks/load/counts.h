/* What wsload counts: messages, how late each was, and how late the last one of each publish was. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PUBLISHES (1 << 17)  /* Distinct timestamps between two `clear`s, at most. */

struct publish {
    long long sent;  /* When: nanoseconds since the epoch, as the publisher wrote them. */
    uint32_t last;   /* Microseconds until it came to the last socket so far. */
};

static uint32_t *delays;  /* Of each message, in microseconds. */
static size_t messages, room;
static struct publish publishes[MAX_PUBLISHES];
static size_t publish_count;

static void clear_counts(void)
{
    messages = publish_count = 0;
    memset(publishes, 0, sizeof publishes);
}

static struct publish *find_publish(long long sent)
{
    size_t place = (size_t)((uint64_t)sent * 0x9E3779B97F4A7C15ull >> 47);
    while (publishes[place].sent != 0 && publishes[place].sent != sent)
        place = (place + 1) % MAX_PUBLISHES;
    return &publishes[place];
}

static void count_message(long long sent, long long now)
{
    uint32_t delay = now > sent ? (uint32_t)((now - sent) / 1000) : 0;
    if (messages == room) {
        room = room ? 2 * room : 1 << 16;
        delays = realloc(delays, room * sizeof *delays);
    }
    delays[messages++] = delay;
    if (publish_count >= MAX_PUBLISHES / 2)
        return;
    struct publish *publish = find_publish(sent);
    if (publish->sent == 0) {
        publish->sent = sent;
        publish_count++;
    }
    if (delay > publish->last)
        publish->last = delay;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

struct spread {
    double p50, p99, max;  /* Milliseconds. */
};

static struct spread spread_of(uint32_t *values, size_t count)
{
    if (count == 0)
        return (struct spread){0, 0, 0};
    qsort(values, count, sizeof *values, ascending);
    return (struct spread){values[count / 2] / 1e3, values[count - 1 - count / 100] / 1e3, values[count - 1] / 1e3};
}

static struct spread spread_of_last(void)
{
    uint32_t *values = malloc((publish_count + 1) * sizeof *values);
    size_t count = 0;
    for (size_t i = 0; i < MAX_PUBLISHES; i++)
        if (publishes[i].sent)
            values[count++] = publishes[i].last;
    struct spread spread = spread_of(values, count);
    free(values);
    return spread;
}
