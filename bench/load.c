/*
 * The load client: opens connections, reads server-sent events, checks every one of them.
 *
 * One thread and one epoll set, so that it never is what limits a server. Arguments are
 * key=value (see `options`), orders come as lines on stdin (`begin`, `expect K`, `stop`), and
 * answers leave as lines of JSON on stdout: "ready" when every response has its head, "done"
 * when everything expected is there, and "result".
 *
 * An event of ours has a JSON object as its data, with the keys "p" (which publisher), "n"
 * (1, 2, 3 … for each publisher) and "t" (CLOCK_MONOTONIC in nanoseconds when it was
 * published). Each watcher must see every publisher's n without a step. Instead of n a last
 * event may have "total", the number of events this watcher has to have got.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PUBLISHERS 8
#define READ_BYTES (256 * 1024)
#define REST_BYTES (1024 * 1024)
#define BUCKETS (64 * 32)

enum kind { WATCHER, STALLED, PUBLISHER };
enum state { IDLE, CONNECTING, HEAD, BODY, ENDED };
enum framing { UNTIL_CLOSE, CHUNKED, LENGTH };
enum chunk { SIZE, SIZE_REST, DATA, DATA_END, TRAILER };

struct connection {
	int fd, index;
	uint8_t kind, state, framing, chunk, is_complete, has_head, is_satisfied, is_cut;
	int64_t left;  /* of the chunk, or of the body */
	int64_t trailer;  /* bytes on the present trailer line */
	char *rest;  /* the bytes of a head or line that is not complete yet */
	size_t rest_size;
	int64_t n, p, t, total;  /* of the event that is being read; -1: not seen */
	uint32_t next[PUBLISHERS];
	int64_t got, expected, comments;
};

static struct {
	const char *host, *paths, *method, *body, *accept, *publish, *publish_type, *wrap;
	long port, watchers, inflight, stalled, receive_buffer, events, comments, storm, timeout_ms;
	long publishers, rate, publish_ms, publish_port, size, linger_ms, silence_ms;
	long escape, at_once, skip;
} options = {
	.host = "127.0.0.1", .method = "GET", .accept = "text/event-stream",
	.publish_type = "text/plain", .wrap = "%s",
	.inflight = 100, .receive_buffer = 4096, .timeout_ms = 60000, .size = 198, .linger_ms = 100,
	.silence_ms = 4000,
};

static struct connection *connections, *publishers;
static char **paths;
static long path_count, total, opened, pending, headed, satisfied, ended, storm_done;
static int epoll;
static int64_t begun, done_at, last_at, started_at, first_cut, last_cut;
static long delivered, gaps, repeats, refused, broken, comments, cuts, commented;
static int64_t event_bytes;  /* of bodies, without the framing of chunks */
static uint64_t histogram[BUCKETS], stamped, slowest;
static double cpu_at_begin, cpu_at_done;
static char fault[400], buffer[REST_BYTES + READ_BYTES + 1];
static int64_t published[PUBLISHERS], publish_from, published_total;
static int is_stopping, publishers_busy, is_published;

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int64_t now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static double cpu(void)
{
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static void blame(const char *format, ...)
{
	va_list rest;
	if (fault[0])
		return;  /* the first fault explains the others */
	va_start(rest, format);
	vsnprintf(fault, sizeof fault, format, rest);
	va_end(rest);
	for (char *c = fault; *c; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '\'';
}

/* --- latencies: 32 buckets for each power of two, so within 3 % --- */

static void note_latency(int64_t nanoseconds)
{
	uint64_t value = nanoseconds < 0 ? 0 : (uint64_t)nanoseconds;
	int bucket = (int)value;
	if (value >= 32) {
		int power = 63 - __builtin_clzll(value);
		bucket = (power - 4) * 32 + (int)((value >> (power - 5)) & 31);
	}
	histogram[bucket]++;
	stamped++;
	if (value > slowest)
		slowest = value;
}

static double percentile(double share)
{
	uint64_t wanted = (uint64_t)(share * (double)stamped), seen = 0;
	for (int bucket = 0; bucket < BUCKETS; bucket++) {
		seen += histogram[bucket];
		if (seen > wanted && bucket < 32)
			return bucket / 1000.0;
		if (seen > wanted)
			return ((32 + bucket % 32) + 0.5) * (double)(1ULL << (bucket / 32 - 1)) / 1000.0;
	}
	return 0;
}

/* --- events --- */

static void satisfy(struct connection *c)
{
	if (!c->is_satisfied && c->expected >= 0 && c->got >= c->expected) {
		c->is_satisfied = 1;
		satisfied++;
	}
}

static void note_event(struct connection *c, int64_t at)
{
	if (c->total >= 0) {
		c->expected = c->total;
	} else if (c->n >= 0) {
		int64_t p = c->p < 0 ? 0 : c->p;
		if (p >= PUBLISHERS) {
			refused++;
			blame("watcher %d: publisher %ld is beyond the limit", c->index, (long)p);
			return;
		}
		if (c->n != c->next[p]) {
			if (c->n > c->next[p])
				gaps++;
			else
				repeats++;
			blame("watcher %d, publisher %ld: %ld came where %u was due", c->index, (long)p,
			      (long)c->n, c->next[p]);
		}
		c->next[p] = (uint32_t)c->n + 1;
		c->got++;
		delivered++;
		if (c->t >= 0 && begun && c->n > options.skip)
			note_latency(at - c->t);
		last_at = at;
		if (c->expected >= 0 && c->got > c->expected)
			blame("watcher %d: event %ld of %ld", c->index, (long)c->got, (long)c->expected);
	} else {
		return;
	}
	satisfy(c);
}

static int64_t number(const char *from, const char *end)
{
	int64_t value = 0;
	while (from < end && *from == ' ')
		from++;
	if (from == end || *from < '0' || *from > '9')
		return -1;
	while (from < end && *from >= '0' && *from <= '9')
		value = value * 10 + (*from++ - '0');
	return value;
}

static void read_data(struct connection *c, const char *line, const char *end)
{
	const char *quote = line;
	while ((quote = memchr(quote, '"', (size_t)(end - quote)))) {
		if (end - quote > 4 && quote[2] == '"' && quote[3] == ':') {
			int64_t *field = quote[1] == 'n' ? &c->n : quote[1] == 'p' ? &c->p : &c->t;
			if (quote[1] == 'n' || quote[1] == 'p' || quote[1] == 't')
				*field = number(quote + 4, end);
			quote += 4;
		} else if (end - quote > 8 && !memcmp(quote, "\"total\":", 8)) {
			c->total = number(quote + 8, end);
			return;
		} else {
			quote++;
		}
		if (c->n >= 0 && c->p >= 0 && c->t >= 0)
			return;
	}
}

static void read_line(struct connection *c, const char *line, const char *end, int64_t at)
{
	if (end > line && end[-1] == '\r')
		end--;
	if (end == line) {
		note_event(c, at);
		c->n = c->p = c->t = c->total = -1;
	} else if (*line == ':') {
		comments++;
		if (++c->comments == options.comments && begun)
			commented++;
	} else if (end - line > 5 && !memcmp(line, "data:", 5)) {
		read_data(c, line + 5, end);
	}
}

static void keep_rest(struct connection *c, const char *from, size_t size)
{
	if (size > REST_BYTES) {
		broken++;
		blame("watcher %d: a line of %zu bytes", c->index, size);
		size = 0;
	}
	if (size) {
		c->rest = realloc(c->rest, size);
		memmove(c->rest, from, size);
	} else {
		free(c->rest);
		c->rest = NULL;
	}
	c->rest_size = size;
}

static void read_lines(struct connection *c, char *from, char *end, int64_t at)
{
	char *feed;
	while (from < end && (feed = memchr(from, '\n', (size_t)(end - from)))) {
		read_line(c, from, feed, at);
		from = feed + 1;
	}
	keep_rest(c, from, (size_t)(end - from));
}

/* --- HTTP/1.1 --- */

/* Takes the chunk framing out of [from, end), in place; where what is left of it ends. */
static char *unchunk(struct connection *c, char *from, char *end)
{
	char *out = from;
	while (from < end) {
		char byte = *from;
		switch (c->chunk) {
		case SIZE: {
			int digit = byte >= '0' && byte <= '9' ? byte - '0'
			          : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
			if (digit >= 0) {
				c->left = c->left * 16 + digit;
				from++;
			} else {
				c->chunk = SIZE_REST;
			}
			break;
		}
		case SIZE_REST:
			from++;
			if (byte == '\n') {
				c->chunk = c->left ? DATA : TRAILER;
				c->trailer = 0;
			}
			break;
		case DATA: {
			size_t size = (size_t)(end - from);
			if ((int64_t)size > c->left)
				size = (size_t)c->left;
			memmove(out, from, size);
			out += size;
			from += size;
			c->left -= (int64_t)size;
			if (!c->left)
				c->chunk = DATA_END;
			break;
		}
		case DATA_END:
			from++;
			if (byte == '\n')
				c->chunk = SIZE;
			else if (byte != '\r') {
				broken++;
				blame("connection %d: a chunk is longer than it says", c->index);
				return out;
			}
			break;
		case TRAILER:
			from++;
			if (byte == '\n' && !c->trailer) {
				c->is_complete = 1;
				return out;
			}
			c->trailer = byte == '\n' ? 0 : c->trailer + (byte != '\r');
			break;
		}
	}
	return out;
}

static const char *header(const char *head, const char *name)
{
	const char *found = strcasestr(head, name);
	return found ? found + strlen(name) : NULL;
}

/* Reads the head at the start of [from, end); where the body starts, or NULL if incomplete. */
static char *read_head(struct connection *c, char *from, char *end)
{
	char *stop = memmem(from, (size_t)(end - from), "\r\n\r\n", 4);
	const char *value;
	if (!stop)
		return NULL;
	stop[2] = '\0';
	if (strncmp(from, "HTTP/1.1 2", 10)) {
		refused++;
		blame("connection %d was answered %.60s", c->index, from);
	}
	c->chunk = SIZE;
	c->left = 0;
	c->is_complete = 0;
	c->framing = UNTIL_CLOSE;
	if ((value = header(from, "\r\ntransfer-encoding:")) && strcasestr(value, "chunked")) {
		c->framing = CHUNKED;
	} else if ((value = header(from, "\r\ncontent-length:"))) {
		c->framing = LENGTH;
		c->left = atoll(value);
		c->is_complete = c->left == 0;
	}
	if (!c->has_head) {
		c->has_head = 1;
		headed++;
		pending--;
	}
	c->state = BODY;
	return stop + 4;
}

static void finish(struct connection *c)
{
	if (c->state == IDLE || c->state == ENDED)
		return;
	if (c->kind != PUBLISHER && !c->has_head)
		pending--;
	c->state = ENDED;
	ended++;
	epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	c->fd = -1;
	keep_rest(c, NULL, 0);
}

static void send_all(struct connection *c, const char *bytes, size_t size)
{
	while (size) {
		ssize_t sent = send(c->fd, bytes, size, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			struct pollfd wait = {c->fd, POLLOUT, 0};
			poll(&wait, 1, 1000);
		} else if (sent < 0) {
			refused++;
			blame("connection %d: %s while the request was sent", c->index, strerror(errno));
			return;
		} else {
			bytes += sent;
			size -= (size_t)sent;
		}
	}
}

static void open_connection(struct connection *c, long port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct epoll_event wish = {.events = EPOLLOUT, .data.ptr = c};
	int size = (int)options.receive_buffer, yes = 1;
	inet_pton(AF_INET, options.host, &to.sin_addr);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	if (c->kind == STALLED)
		setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS)
		die("connect");
	c->state = CONNECTING;
	c->has_head = 0;
	c->n = c->p = c->t = c->total = -1;
	c->got = 0;
	c->expected = options.events ? options.events : -1;
	for (int p = 0; p < PUBLISHERS; p++)
		c->next[p] = 1;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &wish))
		die("epoll_ctl");
}

static void send_request(struct connection *c)
{
	static char request[16384];
	size_t length = options.body ? strlen(options.body) : 0;
	int size = snprintf(request, sizeof request,
		"%s %s HTTP/1.1\r\nHost: %s:%ld\r\nAccept: %s\r\n", options.method,
		paths[c->index % path_count], options.host, options.port, options.accept);
	if (length)
		size += snprintf(request + size, sizeof request - (size_t)size,
			"Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", length, options.body);
	else
		size += snprintf(request + size, sizeof request - (size_t)size, "\r\n");
	send_all(c, request, (size_t)size);
}

/* --- publishing, for servers that are published to over HTTP --- */

static void publish(struct connection *c)
{
	static char event[65536], body[140000], request[150000];
	char *out = body;
	const char *mark = strstr(options.wrap, "%s");
	int size;
	size = snprintf(event, sizeof event, "{\"p\":%d,\"n\":%ld,\"t\":%lld,\"pad\":\"", c->index,
		(long)++published[c->index], (long long)now());
	while (size < options.size - 2)
		event[size++] = 'x';
	memcpy(event + size, "\"}", 3);
	out = mempcpy(out, options.wrap, (size_t)(mark - options.wrap));
	for (const char *from = event; *from; from++) {
		if (options.escape && *from == '"')
			*out++ = '\\';
		*out++ = *from;
	}
	out = stpcpy(out, mark + 2);
	size = snprintf(request, sizeof request,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
		options.publish, options.host, options.publish_type, (size_t)(out - body), body);
	if (c->fd < 0)
		open_connection(c, options.publish_port ? options.publish_port : options.port);
	c->state = HEAD;
	c->has_head = 1;
	publishers_busy++;
	published_total++;
	send_all(c, request, (size_t)size);
}

/* Publishes what is due; in how many milliseconds the next is. */
static int publish_due(void)
{
	int64_t at = now();
	if (!publish_from || is_published)
		return 1000;
	if (options.rate) {
		int64_t due = publish_from + published_total * 1000000000LL / options.rate;
		if (published_total < options.rate * options.publish_ms / 1000) {
			if (at >= due && !publishers_busy)
				publish(&publishers[0]);
			return at >= due ? 1 : (int)((due - at) / 1000000);
		}
	} else if (at - publish_from < options.publish_ms * 1000000LL) {
		for (long i = 0; i < options.publishers; i++)
			if (publishers[i].state != HEAD && publishers[i].state != BODY)
				publish(&publishers[i]);
		return 100;
	}
	if (!publishers_busy) {
		is_published = 1;
		for (long i = 0; i < options.watchers; i++) {
			connections[i].expected = published_total;
			satisfy(&connections[i]);
		}
	}
	return 10;
}

static void answered(struct connection *c)
{
	c->state = CONNECTING;
	c->is_complete = 0;
	publishers_busy--;
	if (!options.rate && now() - publish_from < options.publish_ms * 1000000LL)
		publish(c);
}

/* --- what happens on a connection --- */

static void again(struct connection *c)
{
	/* A storm: this one has its first event, so the next one takes its place. */
	finish(c);
	ended--;
	storm_done++;
	if (opened < options.storm) {
		opened++;
		pending++;
		open_connection(c, options.port);
	}
}

static void readable(struct connection *c)
{
	char *from = buffer, *end;
	ssize_t size;
	if (c->rest_size)
		memcpy(buffer, c->rest, c->rest_size);
	size = recv(c->fd, buffer + c->rest_size, READ_BYTES, 0);
	int64_t at = now();
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size <= 0 && c->kind == PUBLISHER && c->state != HEAD) {
		/* A server that closes after each answer; the next event has a connection of its own. */
		int was_answering = c->state == BODY;
		epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
		close(c->fd);
		c->fd = -1;
		if (was_answering)
			answered(c);
		return;
	}
	if (size <= 0) {
		if (c->kind == PUBLISHER || (c->state == HEAD && c->kind == WATCHER)) {
			refused++;
			blame("connection %d was closed without an answer", c->index);
		} else if (c->framing != UNTIL_CLOSE || size < 0) {
			broken++;
			blame("watcher %d was cut after %ld events", c->index, (long)c->got);
		}
		finish(c);
		return;
	}
	end = buffer + c->rest_size + size;
	from = buffer + c->rest_size;
	if (c->state == HEAD) {
		if (!(from = read_head(c, buffer, end))) {
			keep_rest(c, buffer, (size_t)(end - buffer));
			return;
		}
		keep_rest(c, NULL, 0);
	}
	if (c->framing == CHUNKED) {
		char *raw = from;
		end = unchunk(c, raw, end);
	} else if (c->framing == LENGTH) {
		c->left -= end - from;
		c->is_complete = c->left <= 0;
	}
	if (c->kind == PUBLISHER) {
		if (c->is_complete)
			answered(c);
		return;
	}
	event_bytes += end - from;
	/* Decoded bytes follow what was kept of the line before. */
	read_lines(c, from - c->rest_size, end, at);
	if (options.storm && c->got)
		again(c);
	else if (c->is_complete)
		finish(c);
}

static void happened(struct connection *c, uint32_t events)
{
	if (c->state == CONNECTING && c->kind != PUBLISHER) {
		struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
		int error = 0;
		socklen_t size = sizeof error;
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			refused++;
			blame("connection %d: %s", c->index, strerror(error));
			finish(c);
			return;
		}
		if (c->kind == STALLED)
			wish.events |= EPOLLRDHUP | EPOLLET;
		c->state = HEAD;
		epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &wish);
		send_request(c);
		return;
	}
	if (c->kind == STALLED) {
		if (!c->has_head && events & EPOLLIN) {
			c->has_head = 1;
			headed++;
			pending--;
		}
		if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) && !c->is_cut) {
			c->is_cut = 1;
			cuts++;
			last_cut = now();
			if (!first_cut)
				first_cut = last_cut;
			finish(c);
		}
		return;
	}
	if (c->kind == PUBLISHER && events & EPOLLOUT) {
		struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
		epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &wish);
		return;
	}
	readable(c);
}

static void order(const char *line)
{
	if (!strncmp(line, "begin", 5)) {
		begun = now();
		cpu_at_begin = cpu();
		comments = commented = 0;
		for (long i = 0; i < total; i++)
			connections[i].comments = 0;
		if (options.publishers)
			publish_from = begun;
	} else if (!strncmp(line, "expect ", 7)) {
		for (long i = 0; i < options.watchers; i++) {
			connections[i].expected = atol(line + 7);
			satisfy(&connections[i]);
		}
	} else {
		is_stopping = 1;
	}
}

static void listen_to_orders(void)
{
	static char line[4096];
	static size_t held;
	char *feed;
	ssize_t size = read(0, line + held, sizeof line - held - 1);
	if (size <= 0) {
		is_stopping = 1;
		epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
		return;
	}
	held += (size_t)size;
	line[held] = '\0';
	while ((feed = strchr(line, '\n'))) {
		*feed = '\0';
		order(line);
		held -= (size_t)(feed + 1 - line);
		memmove(line, feed + 1, held + 1);
	}
}

static int is_done(void)
{
	if (options.storm)
		return storm_done >= options.storm;
	if (!begun)
		return 0;
	if (options.comments)
		return commented >= options.watchers;
	if (options.publishers && !is_published)
		return 0;
	/* Without watchers there is nothing to wait for but the cuts. */
	if (!options.watchers)
		return cuts >= options.stalled;
	return satisfied >= options.watchers;
}

/* Whether everybody knows how many are due, and nothing has come for long. */
static int is_silent(int64_t at)
{
	if (done_at || !last_at || at - last_at < options.silence_ms * 1000000LL)
		return 0;
	if (options.comments || options.storm || !options.watchers)
		return 0;
	for (long i = 0; i < options.watchers; i++)
		if (connections[i].expected < 0 && connections[i].state != ENDED)
			return 0;
	return 1;
}

static void tell(void)
{
	long missing = 0, fewest = -1, most = 0;
	for (long i = 0; i < options.watchers && !options.storm; i++) {
		struct connection *c = &connections[i];
		if (c->expected < 0 && !options.comments && !is_stopping) {
			missing++;
			blame("watcher %ld has %ld events and was not told how many there are", i,
			      (long)c->got);
		}
		if (c->expected >= 0 && c->got != c->expected) {
			missing++;
			blame("watcher %ld has %ld of %ld events", i, (long)c->got, (long)c->expected);
		}
		if (fewest < 0 || c->got < fewest)
			fewest = c->got;
		if (c->got > most)
			most = c->got;
	}
	if (options.storm && storm_done < options.storm)
		blame("%ld of %ld connections had their first event", storm_done, options.storm);
	printf("{\"told\":\"result\",\"watchers\":%ld,\"delivered\":%ld,\"fewest\":%ld,\"most\":%ld,"
	       "\"published\":%ld,\"gaps\":%ld,\"repeats\":%ld,\"wrong_count\":%ld,\"refused\":%ld,"
	       "\"broken\":%ld,\"fault\":\"%s\",\"bytes\":%lld,\"comments\":%ld,\"ended\":%ld,"
	       "\"storm\":%ld,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"seconds\":%.6f,"
	       "\"wall_seconds\":%.6f,\"cuts\":%ld,\"first_cut_seconds\":%.3f,"
	       "\"last_cut_seconds\":%.3f,\"cpu_seconds\":%.6f}\n",
	       options.watchers, delivered, fewest, most, (long)published_total, gaps, repeats, missing,
	       refused, broken, fault, (long long)event_bytes, comments, ended, storm_done,
	       percentile(0.5), percentile(0.99), (double)slowest / 1000.0,
	       last_at ? (double)(last_at - (begun ? begun : started_at)) / 1e9 : 0.0,
	       (double)((done_at ? done_at : now()) - (begun ? begun : started_at)) / 1e9, cuts,
	       first_cut ? (double)(first_cut - begun) / 1e9 : 0.0,
	       last_cut ? (double)(last_cut - begun) / 1e9 : 0.0,
	       (done_at ? cpu_at_done : cpu()) - cpu_at_begin);
	fflush(stdout);
}

/* --- setting up --- */

static void take_option(const char *argument)
{
	struct { const char *name; const char **text; long *whole; } known[] = {
		{"host", &options.host, NULL}, {"paths", &options.paths, NULL},
		{"method", &options.method, NULL}, {"body", &options.body, NULL},
		{"accept", &options.accept, NULL}, {"publish", &options.publish, NULL},
		{"wrap", &options.wrap, NULL}, {"publish_type", &options.publish_type, NULL},
		{"escape", NULL, &options.escape}, {"at_once", NULL, &options.at_once}, {"skip", NULL, &options.skip}, {"port", NULL, &options.port},
		{"watchers", NULL, &options.watchers}, {"inflight", NULL, &options.inflight},
		{"stalled", NULL, &options.stalled}, {"receive_buffer", NULL, &options.receive_buffer},
		{"events", NULL, &options.events}, {"comments", NULL, &options.comments},
		{"storm", NULL, &options.storm}, {"timeout_ms", NULL, &options.timeout_ms},
		{"publishers", NULL, &options.publishers}, {"rate", NULL, &options.rate},
		{"publish_ms", NULL, &options.publish_ms}, {"publish_port", NULL, &options.publish_port},
		{"size", NULL, &options.size}, {"linger_ms", NULL, &options.linger_ms},
		{"silence_ms", NULL, &options.silence_ms},
	};
	const char *equals = strchr(argument, '=');
	for (size_t i = 0; equals && i < sizeof known / sizeof *known; i++) {
		size_t size = strlen(known[i].name);
		if (size == (size_t)(equals - argument) && !memcmp(argument, known[i].name, size)) {
			if (known[i].text)
				*known[i].text = equals + 1;
			else
				*known[i].whole = atol(equals + 1);
			return;
		}
	}
	fprintf(stderr, "load: unknown argument %s\n", argument);
	exit(2);
}

static void read_paths(void)
{
	static char line[4096];
	FILE *file = fopen(options.paths, "r");
	if (!file)
		die(options.paths);
	while (fgets(line, sizeof line, file)) {
		line[strcspn(line, "\r\n")] = '\0';
		paths = realloc(paths, (size_t)(path_count + 1) * sizeof *paths);
		paths[path_count++] = strdup(line);
	}
	fclose(file);
}

static struct connection *made(long count, int kind, int index)
{
	struct connection *all = calloc((size_t)count + 1, sizeof *all);
	for (long i = 0; i < count; i++) {
		all[i].fd = -1;
		all[i].kind = (uint8_t)kind;
		all[i].index = index + (int)i;
	}
	return all;
}

static void raise_limits(void)
{
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

int main(int count, char **arguments)
{
	static struct epoll_event events[512];
	struct epoll_event orders = {.events = EPOLLIN, .data.ptr = NULL};
	int is_ready = 0;
	for (int i = 1; i < count; i++)
		take_option(arguments[i]);
	read_paths();
	raise_limits();
	started_at = now();
	/* What is watched begins when somebody comes: there is no order to wait for. */
	if (options.at_once)
		begun = started_at;
	if (!path_count || options.publishers > PUBLISHERS || options.size > 60000)
		errno = EINVAL, die("arguments");
	total = options.storm ? options.inflight : options.watchers + options.stalled;
	connections = made(total, WATCHER, 0);
	for (long i = options.storm ? total : options.watchers; i < total; i++)
		connections[i].kind = STALLED;
	publishers = made(options.publishers, PUBLISHER, 0);
	epoll = epoll_create1(0);
	epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &orders);

	while (!is_stopping) {
		while (opened < total && pending < options.inflight) {
			pending++;
			open_connection(&connections[opened++], options.port);
		}
		int wait = publish_due();
		int amount = epoll_wait(epoll, events, 512, wait < 20 ? wait : 20);
		for (int i = 0; i < amount; i++) {
			struct connection *c = events[i].data.ptr;
			if (c)
				happened(c, events[i].events);
			else
				listen_to_orders();
		}
		/* What was refused has no head, and nobody is to wait for it for ever. */
		if (!is_ready && !options.storm && opened == total && headed + refused >= total) {
			is_ready = 1;
			printf("{\"told\":\"ready\",\"connections\":%ld,\"refused\":%ld,\"seconds\":%.6f}\n",
			       headed, refused, (double)(now() - started_at) / 1e9);
			fflush(stdout);
		}
		if (!done_at && is_done()) {
			done_at = now();
			cpu_at_done = cpu();
			printf("{\"told\":\"done\"}\n");
			fflush(stdout);
		}
		int64_t at = now();
		int64_t since = begun ? begun : started_at;
		/* A moment longer, so that an event too many is noticed. */
		if (done_at && at - done_at > options.linger_ms * 1000000LL)
			break;
		if (at - since > options.timeout_ms * 1000000LL) {
			if (!options.comments && (options.watchers || options.storm))
				blame("not done after %ld ms", options.timeout_ms);
			break;
		}
		if (is_silent(at))
			break;
		if (options.watchers && ended >= options.watchers && !done_at && !options.storm)
			break;
	}
	tell();
	return 0;
}
