/*
 * The floor: what no server can be cheaper than. It only accepts, answers a fixed head and
 * send()s the same bytes to everybody, in a loop over descriptors.
 *
 *   floor PORT [FAULT]
 *
 *   GET  /events                               joins the watchers
 *   GET  /one                                  as that, with one event at once
 *   GET  /replay?count=K                       K events in large sends, then the end
 *   POST /publish?rate=R&seconds=S&publishers=P&size=B   rate 0: as fast as it goes, one
 *        event of each publisher in one send; the answer comes when all is sent
 *
 * FAULT (drop, double, swap) does one wrong to one watcher, to show that it is noticed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 70000
#define BLOCK_EVENTS 256

static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
			   "Cache-Control: no-cache\r\nConnection: close\r\n\r\n";
static const int64_t BEAT = 5000000000LL;

static int watchers[MOST], places[MOST], count;
static const char *fault = "";
static long size = 206;
static char block[BLOCK_EVENTS * 65536];

static int64_t now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void leave(int fd)
{
	if (places[fd] >= 0) {
		watchers[places[fd]] = watchers[--count];
		places[watchers[places[fd]]] = places[fd];
		places[fd] = -1;
	}
	close(fd);
}

static void send_all(int fd, const char *bytes, size_t left)
{
	while (left) {
		ssize_t sent = send(fd, bytes, left, MSG_NOSIGNAL);
		if (sent >= 0) {
			bytes += sent;
			left -= (size_t)sent;
		} else if (errno == EAGAIN) {
			struct pollfd wait = {fd, POLLOUT, 0};
			poll(&wait, 1, 1000);
		} else {
			return;
		}
	}
}

static size_t event(char *to, int publisher, long n)
{
	int used = sprintf(to, "data: {\"p\":%d,\"n\":%ld,\"t\":%lld,\"pad\":\"", publisher, n,
			   (long long)now());
	if (used < size - 4) {
		memset(to + used, 'x', (size_t)(size - 4 - used));
		used = (int)size - 4;
	}
	memcpy(to + used, "\"}\n\n", 4);
	return (size_t)used + 4;
}

static void tell(const char *bytes, size_t length, long n)
{
	for (int i = 0; i < count; i++) {
		if (*fault && i == count / 2 && (n == 10 || n == 11)) {
			static char held[65536];
			static size_t kept;
			if (n == 10 && !strcmp(fault, "drop"))
				continue;
			if (n == 10 && !strcmp(fault, "double"))
				send_all(watchers[i], bytes, length);
			if (n == 10 && !strcmp(fault, "swap")) {
				memcpy(held, bytes, kept = length);
				continue;
			}
			send_all(watchers[i], bytes, length);
			if (n == 11 && kept)
				send_all(watchers[i], held, kept);
			continue;
		}
		send_all(watchers[i], bytes, length);
	}
}

static long publish(long rate, double seconds, int publishers)
{
	int64_t begin = now(), end = begin + (int64_t)(seconds * 1e9);
	long n = 0, most = (long)((double)rate * seconds);
	while (rate ? n < most : now() < end) {
		size_t length = 0;
		if (rate) {
			int64_t wait = begin + n * 1000000000LL / rate - now();
			struct timespec pause = {wait / 1000000000, wait % 1000000000};
			if (wait > 0)
				nanosleep(&pause, NULL);
		}
		n++;
		for (int p = 0; p < publishers; p++)
			length += event(block + length, p, n);
		tell(block, length, n);
	}
	return n * publishers;
}

static void replay(int fd, long events)
{
	for (long n = 0; n < events;) {
		size_t length = 0;
		for (int i = 0; i < BLOCK_EVENTS && n < events; i++)
			length += event(block + length, 0, ++n);
		send_all(fd, block, length);
	}
}

static double asked(const char *request, const char *name, double otherwise)
{
	const char *found = strstr(request, name);
	return found ? atof(found + strlen(name)) : otherwise;
}

static void answer(int fd, const char *request)
{
	size = (long)asked(request, "size=", (double)size);
	if (!strncmp(request, "POST ", 5)) {
		char body[64], head[200];
		long sent = publish((long)asked(request, "rate=", 0), asked(request, "seconds=", 1),
				    (int)asked(request, "publishers=", 1));
		int length = sprintf(body, "{\"published\":%ld}", sent);
		send_all(fd, head, (size_t)sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
					   "Connection: close\r\n\r\n%s", length, body));
		leave(fd);
		return;
	}
	send_all(fd, HEAD, sizeof HEAD - 1);
	if (!strncmp(request, "GET /replay", 11)) {
		replay(fd, (long)asked(request, "count=", 1));
		leave(fd);
		return;
	}
	if (!strncmp(request, "GET /one", 8))
		replay(fd, 1);
	places[fd] = count;
	watchers[count++] = fd;
}

static void beat(void)
{
	static int64_t last;
	if (!last)
		last = now();
	if (now() - last < BEAT)
		return;
	last = now();
	for (int i = 0; i < count; i++)
		send_all(watchers[i], ": ping\n\n", 8);
}

int main(int argc, char **argv)
{
	static struct epoll_event events[512];
	static char request[16384];
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct rlimit files;
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int epoll = epoll_create1(0);
	at.sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "0"));
	fault = argc > 2 ? argv[2] : "";
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) {
		perror("floor");
		return 1;
	}
	memset(places, -1, sizeof places);
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener,
		  &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
	for (;;) {
		int amount = epoll_wait(epoll, events, 512, 250);
		beat();
		for (int i = 0; i < amount; i++) {
			int fd = events[i].data.fd;
			if (fd == listener) {
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
					epoll_ctl(epoll, EPOLL_CTL_ADD, fd,
						  &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
				}
				continue;
			}
			/* Ours sends its request in one piece. */
			ssize_t got = recv(fd, request, sizeof request - 1, 0);
			if (got <= 0) {
				leave(fd);
				continue;
			}
			request[got] = '\0';
			if (places[fd] < 0)
				answer(fd, request);
		}
	}
}
