/* A fast stand-in for B2COPY: one thread, epoll, HTTP/1.1 with keep-alive. It answers every POST with a finished fee run
   and remembers how often and when it carried out each `request_id`. A server in Python would cost more than what is
   measured.

   Build: cc -O2 -o peer peer.c, with -DTLS -lssl -lcrypto also for HTTPS.
   Use:   ./peer PORT [CERTIFICATE KEY]   loopback only
          GET /set?latency_ms=10&refuse=5&lose=2&pending=0   from now on; percent of the requests that get a 503 and are not
                            carried out, and that are carried out and never answered; pending=1: no fee run finishes
          GET /reset     forget all ids          GET /counts    {"ids": ..., "requests": ...}
          GET /effects   one line per id: id, how often it was carried out, first time (monotonic seconds) */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

#define FDS 4096        /* connections */
#define ROOM 65536      /* bytes of a request */
#define IDS (1 << 19)   /* places for ids, a power of two; half of them are used */
#define ID_LENGTH 64

typedef struct { char id[ID_LENGTH]; int times; double first; } Effect;
typedef struct {
  char *in; int have; unsigned generation;
#ifdef TLS
  SSL *tls; int shaken;
#endif
} Connection;
typedef struct { double at; int fd; unsigned generation; char kind; } Due;

static Connection connections[FDS];
static Effect *effects;
static long ids, requests;
static Due queue[ROOM];
static unsigned head, tail;
static double latency;
static int refuse, lose, pending;
static char done[1024], waiting[1024], refused[256], login[512];

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

static int chance(int percent) { return percent && random() % 100 < percent; }

static void drop(int fd) {
  Connection *c = &connections[fd];
#ifdef TLS
  if (c->tls) { SSL_free(c->tls); c->tls = 0; }
#endif
  close(fd); c->have = 0; c->generation++;
}

static void put(int fd, const char *text, long length) {
  while (length > 0) {
    long sent;
#ifdef TLS
    if (connections[fd].tls) sent = SSL_write(connections[fd].tls, text, (int)length); else
#endif
    sent = write(fd, text, length);
    if (sent > 0) { text += sent; length -= sent; continue; }
    if (errno != EAGAIN) { drop(fd); return; }
    struct pollfd p = {.fd = fd, .events = POLLOUT}; poll(&p, 1, 1000);
  }
}

static int receive(int fd) {
  Connection *c = &connections[fd];
#ifdef TLS
  if (c->tls) {
    int got = SSL_read(c->tls, c->in + c->have, ROOM - c->have);
    return got > 0 ? got : SSL_get_error(c->tls, got) == SSL_ERROR_WANT_READ ? -1 : 0;
  }
#endif
  int got = (int)read(fd, c->in + c->have, ROOM - c->have);
  return got < 0 && errno == EAGAIN ? -1 : got < 0 ? 0 : got;
}

static void carry_out(const char *body) {
  const char *at = strstr(body, "\"request_id\""), *begin, *end;
  if (!at || !(begin = strchr(at + 12, '"')) || !(end = strchr(begin + 1, '"')) || end - begin > ID_LENGTH) return;
  char id[ID_LENGTH] = {0}; memcpy(id, begin + 1, end - begin - 1);
  unsigned long hash = 5381; for (char *p = id; *p; p++) hash = hash * 33 + (unsigned char)*p;
  Effect *e;
  for (unsigned long n = hash * 2654435761UL; ; n++) { e = &effects[n & (IDS - 1)]; if (!e->times || !strcmp(e->id, id)) break; }
  if (!e->times && ids >= IDS / 2) return;
  if (!e->times++) { memcpy(e->id, id, ID_LENGTH); e->first = now(); ids++; }
}

static void answer(int fd, char kind) {
  if (kind == 'd') put(fd, pending ? waiting : done, (long)strlen(pending ? waiting : done));
  else if (kind == 'r') put(fd, refused, (long)strlen(refused));
  else drop(fd);
}

static void control(int fd, const char *path) {
  static char *text; static size_t size; if (!text) text = malloc(size = 64);
  size_t length = 0; char head_[128];
  if (!strncmp(path, "/set?", 5)) {
    const char *p;
    if ((p = strstr(path, "latency_ms="))) latency = atof(p + 11) / 1000;
    if ((p = strstr(path, "refuse="))) refuse = atoi(p + 7);
    if ((p = strstr(path, "lose="))) lose = atoi(p + 5);
    if ((p = strstr(path, "pending="))) pending = atoi(p + 8);
  } else if (!strncmp(path, "/reset", 6)) { memset(effects, 0, IDS * sizeof(Effect)); ids = requests = 0;
  } else if (!strncmp(path, "/counts", 7)) { length = sprintf(text, "{\"ids\": %ld, \"requests\": %ld}", ids, requests);
  } else if (!strncmp(path, "/effects", 8)) {
    text = realloc(text, size = ids * (ID_LENGTH + 48) + 64);
    for (long n = 0; n < IDS; n++) if (effects[n].times)
      length += sprintf(text + length, "%s %d %.6f\n", effects[n].id, effects[n].times, effects[n].first);
  }
  put(fd, head_, sprintf(head_, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length));
  put(fd, text, (long)length);
}

static void serve(int fd) { /* everything that was received whole */
  Connection *c = &connections[fd];
  for (unsigned mine = c->generation; mine == c->generation;) {
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n"); if (!end) return;
    char *field = strcasestr(c->in, "content-length:");
    int whole = (int)(end - c->in) + 4 + (field && field < end ? atoi(field + 15) : 0);
    if (c->have < whole) return;
    if (!strncmp(c->in, "GET ", 4)) control(fd, c->in + 4);
    else if (memmem(c->in, end - c->in, "authexternalcrm", 15)) put(fd, login, (long)strlen(login));
    else {
      requests++;
      char kind = chance(refuse) ? 'r' : chance(lose) ? 'l' : 'd';
      if (kind != 'r') carry_out(end + 4);
      if (latency > 0) queue[tail++ % ROOM] = (Due){now() + latency, fd, c->generation, kind}; else answer(fd, kind);
    }
    if (mine != c->generation) return;
    c->have -= whole; memmove(c->in, c->in + whole, c->have);
  }
}

static void welcome(int listener, int epoll) {
  int fd, one = 1;
  while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
    if (fd >= FDS) { close(fd); continue; }
    Connection *c = &connections[fd];
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!c->in) c->in = malloc(ROOM + 1);
    c->have = 0; c->generation++;
#ifdef TLS
    c->shaken = !context;
    if (context) { c->tls = SSL_new(context); SSL_set_fd(c->tls, fd); SSL_set_accept_state(c->tls); }
#endif
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd}; epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  }
}

static int is_ready(int fd) { /* the TLS handshake is done, or there is none */
#ifdef TLS
  Connection *c = &connections[fd];
  if (!c->shaken) {
    int result = SSL_accept(c->tls);
    if (result == 1) c->shaken = 1;
    else { int e = SSL_get_error(c->tls, result); if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) drop(fd); return 0; }
  }
#endif
  return fd >= 0;
}

int main(int argc, char **argv) {
  const char *body = "{\"status\":\"FEE_PROCESS_STATUS_SUCCESS\"}";
  const char *tokens = "{\"accessToken\":\"opaque-access-token-of-the-bench-0123456789abcdefghijklmnopqrstuvwxyz\","
                       "\"refreshToken\":\"opaque-refresh-token-0123456789\",\"expiresIn\":3600}";
  char *p = done;
  p += sprintf(p, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: Thu, 26 Nov 2026 02:00:00 GMT\r\n"
                  "Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n");
  for (int i = 0; i < 6; i++) p += sprintf(p, "x-some-header-%d: some-value-of-a-usual-length-%d\r\n", i, i);
  sprintf(p, "Transfer-Encoding: chunked\r\n\r\n7\r\n%.7s\r\n%x\r\n%s\r\n0\r\n\r\n", body, (int)strlen(body) - 7, body + 7);
  sprintf(waiting, "HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n{\"status\":\"FEE_PROCESS_STATUS_PENDING\"}");
  sprintf(refused, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
  sprintf(login, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", (int)strlen(tokens), tokens);
  signal(SIGPIPE, SIG_IGN);
  effects = calloc(IDS, sizeof(Effect));
  if (argc > 3) {
#ifdef TLS
    context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(context, argv[2]) != 1 || SSL_CTX_use_PrivateKey_file(context, argv[3], SSL_FILETYPE_PEM) != 1) return 2;
#else
    return 2;
#endif
  }
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 512)) return 3;
  int epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    double t = now();
    for (; head != tail && queue[head % ROOM].at <= t; head++) {
      Due *due = &queue[head % ROOM];
      if (connections[due->fd].generation == due->generation) answer(due->fd, due->kind);
    }
    struct timespec wait = {0, 0}; /* not in milliseconds: a latency of 10 ms would become 10 to 11 */
    if (head != tail) {
      double left = queue[head % ROOM].at - now();
      if (left > 0) { wait.tv_sec = (long)left; wait.tv_nsec = (long)((left - (long)left) * 1e9); }
    }
    int count = epoll_pwait2(epoll, events, 256, head == tail ? 0 : &wait, 0);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) { welcome(listener, epoll); continue; }
      if (!is_ready(fd)) continue;
      int got = receive(fd);
      if (got == 0) drop(fd);
      if (got > 0) { connections[fd].have += got; serve(fd); }
    }
  }
}
