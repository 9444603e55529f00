/* sendloop PORT: the least that a fan-out can cost. One send() of a prebuilt frame to each socket, and nothing else.

   A connection that begins with GET is a WebSocket client, and gets as much of a handshake as wsload asks for; one
   that begins with PUBLISH sends a message in each further line, which goes to every client.
*/

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CLIENTS (1 << 16)

static const char handshake[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

static int clients[MAX_CLIENTS];
static int client_count;
static int publisher = -1;
static char pending[1 << 20];
static size_t pending_length;

static void write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent > 0) {
            data += sent;
            length -= sent;
        } else if (errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        } else {
            return;
        }
    }
}

static void fan_out(const char *text, size_t size)
{
    static char frame[65536 + 4] = {(char)0x81};
    size_t head = size < 126 ? 2 : 4;
    if (size > 65535)
        return;
    frame[1] = (char)(size < 126 ? size : 126);
    if (head == 4) {
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
    }
    memcpy(frame + head, text, size);
    for (int i = 0; i < client_count; i++)
        write_all(clients[i], frame, head + size);
}

static void take_lines(void)
{
    char *start = pending, *end;
    while ((end = memchr(start, '\n', pending + pending_length - start)) != NULL) {
        if (strncmp(start, "PUBLISH", 7) != 0)
            fan_out(start, end - start);
        start = end + 1;
    }
    pending_length -= start - pending;
    memmove(pending, start, pending_length);
}

static void read_from(int fd)
{
    char data[65536];
    ssize_t length = recv(fd, data, sizeof data, 0);
    if (length <= 0) {
        if (length == 0 || errno != EAGAIN)
            close(fd);
    } else if (fd == publisher || memcmp(data, "PUBLISH", 7) == 0) {
        publisher = fd;
        memcpy(pending + pending_length, data, length);
        pending_length += length;
        take_lines();
    } else if (memcmp(data, "GET ", 4) == 0 && client_count < MAX_CLIENTS) {
        write_all(fd, handshake, sizeof handshake - 1);
        clients[client_count++] = fd;
    }
}

static void let_in(int listener, int poller)
{
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
}

int main(int count, char **words)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(count > 1 ? words[1] : "0"))};
    struct epoll_event events[256];
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 2048) < 0) {
        perror("sendloop");
        return 1;
    }
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.fd == listener)
                let_in(listener, poller);
            else
                read_from(events[i].data.fd);
    }
}
