/* Uses hooks.c and wake.c without Python, for sanitizers and valgrind.
 *
 *     driver SQLITE_LIBRARY COPY_OF_IT EMPTY_FOLDER
 *
 * Every misuse that the heads of those files speak of; ends with 0, or stops at
 * the first check that fails. */
#include "../../csrc/hooks.c"
#undef _GNU_SOURCE
#include "../../csrc/wake.c"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

static int (*sql_open)(const char *, sqlite3 **);
static int (*sql_close)(sqlite3 *);
static int (*sql_exec)(sqlite3 *, const char *, void *, void *, char **);
static int64_t (*heap_limit)(int64_t);
static int64_t (*heap_used)(int);
static int (*set_authorizer)(sqlite3 *, int (*)(void *, int, const char *, const char *,
                                                const char *, const char *), void *);

static char folder[200], sidecar[256], path[512];

static int run(sqlite3 *db, const char *sql)
{
    return sql_exec(db, sql, NULL, NULL, NULL);
}

static sqlite3 *opened(const char *name, int is_hooked)
{
    sqlite3 *db = NULL;

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(sql_open(path, &db) == SQLITE_OK);
    CHECK(run(db, "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS channels_lite_event"
                  "(id INTEGER PRIMARY KEY AUTOINCREMENT, channel_name)") == SQLITE_OK);
    if (is_hooked)
        CHECK(clw_attach(db, sidecar) == 0);
    return db;
}

static int fifo(const char *name)
{
    (void)snprintf(path, sizeof path, "%s/%s", sidecar, name);
    CHECK(mkfifo(path, 0600) == 0);
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    CHECK(fd >= 0);
    return fd;
}

/* How many bytes are in a FIFO, all of which are `sign`. */
static int wakes(int fd, unsigned char sign)
{
    unsigned char bytes[4096];
    ssize_t got = read(fd, bytes, sizeof bytes);

    for (ssize_t i = 0; i < got; i++)
        CHECK(bytes[i] == sign);
    return got < 0 ? 0 : (int)got;
}

static void stranger(void *pointer, int operation, const char *database, const char *table,
                     int64_t rowid)
{
    (void)pointer, (void)operation, (void)database, (void)table, (void)rowid;
}

static void commits(int token, int jobs)
{
    sqlite3 *db = opened("a.sqlite3", 1);
    const char *insert = "INSERT INTO channels_lite_event (channel_name) VALUES ('x.token!')";

    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(run(db, "BEGIN; SAVEPOINT s") == SQLITE_OK && run(db, insert) == SQLITE_OK);
    CHECK(run(db, "ROLLBACK TO s; COMMIT") == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 0);
    CHECK(run(db, "BEGIN") == SQLITE_OK && run(db, insert) == SQLITE_OK);
    CHECK(run(db, "ROLLBACK") == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 0);
    CHECK(run(db, "PRAGMA wal_autocheckpoint=1") == SQLITE_OK);
    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(run(db, "INSERT INTO channels_lite_event (channel_name) VALUES "
                  "('jobs'), (NULL), (17), (x'ff00ff'), (''), ('!'), ('../jobs'), ('a/b'), "
                  "(printf('%.70000c', 'x'))") == SQLITE_OK);
    CHECK(wakes(jobs, sign_of("jobs")) == 1);
    CHECK(clw_attach(db, sidecar) == 0);            /* once more changes nothing */
    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(sql_close(db) == SQLITE_OK);

    db = opened("a.sqlite3", 0);
    (void)api->update_hook(db, stranger, NULL);
    (void)api->update_hook(db, stranger, &db);
    CHECK(clw_attach(db, sidecar) == -EEXIST);      /* its slot is taken, and all of ours is off */
    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 0);
    CHECK(sql_close(db) == SQLITE_OK);
    CHECK(clw_rows_seen() > 0);
}

static int denies(void *is_on, int action, const char *a, const char *b, const char *c,
                  const char *d)
{
    enum { SQLITE_DENY = 1, SQLITE_FUNCTION = 31 };

    (void)a, (void)b, (void)c, (void)d;
    return *(int *)is_on && action == SQLITE_FUNCTION ? SQLITE_DENY : SQLITE_OK;
}

/* Whoever cannot be asked whether it is attached stays as it is. */
static void denied(int token)
{
    sqlite3 *db = opened("a.sqlite3", 1);
    const char *insert = "INSERT INTO channels_lite_event (channel_name) VALUES ('x.token!')";
    int is_on = 1;

    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(set_authorizer(db, denies, &is_on) == SQLITE_OK);
    CHECK(clw_attach(db, sidecar) == -EACCES);
    is_on = 0;
    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(sql_close(db) == SQLITE_OK);
}

/* Another copy of SQLite, which loads the extension into each connection that it
 * opens: it gets no hooks, and the first one's stay its own. */
static void second_copy(const char *library, int token)
{
    void *copy = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    int (*auto_extension)(any_function);
    int (*open_second)(const char *, sqlite3 **);
    int (*close_second)(sqlite3 *);
    const routines *before = api;
    const char *insert = "INSERT INTO channels_lite_event (channel_name) VALUES ('x.token!')";
    sqlite3 *second = NULL, *db = opened("a.sqlite3", 1);

    CHECK(copy);
    *(void **)&auto_extension = dlsym(copy, "sqlite3_auto_extension");
    *(void **)&open_second = dlsym(copy, "sqlite3_open");
    *(void **)&close_second = dlsym(copy, "sqlite3_close");
    CHECK(open_second != sql_open);
    CHECK(clw_use_library(library) == -EBUSY);
    CHECK(auto_extension((any_function)sqlite3_wakeup_init) == SQLITE_OK);
    CHECK(open_second(":memory:", &second) == SQLITE_OK);
    CHECK(clw_extension_connection() == NULL);
    CHECK(clw_connection_of((uintptr_t)&second) == NULL);
    CHECK(api == before);
    CHECK(run(db, insert) == SQLITE_OK && wakes(token, PROCESS_LOCAL) == 1);
    CHECK(sql_close(db) == SQLITE_OK && close_second(second) == SQLITE_OK);
}

/* The copy that is in use may hand itself over as often as it likes. */
static void same_copy(const char *path, void *library)
{
    int (*auto_extension)(any_function);
    int (*cancel)(any_function);
    sqlite3 *db = NULL;

    *(void **)&auto_extension = dlsym(library, "sqlite3_auto_extension");
    *(void **)&cancel = dlsym(library, "sqlite3_cancel_auto_extension");
    CHECK(clw_use_library(path) == 0);
    CHECK(auto_extension((any_function)sqlite3_wakeup_init) == SQLITE_OK);
    CHECK(sql_open(":memory:", &db) == SQLITE_OK);
    CHECK(clw_extension_connection() == db && clw_connection_of((uintptr_t)&db) == db);
    CHECK(clw_extension_connection() == NULL);
    CHECK(cancel((any_function)sqlite3_wakeup_init) == 1);
    CHECK(sql_close(db) == SQLITE_OK);
}

/* SQLite runs out of memory wherever it asks for some: nothing crashes or leaks. */
static void out_of_memory(void)
{
    for (int64_t room = 0; room < 300000; room += 1500) {
        sqlite3 *db = opened("b.sqlite3", 0);
        (void)heap_limit(heap_used(0) + room);
        if (clw_attach(db, sidecar) == 0)
            (void)run(db, "INSERT INTO channels_lite_event (channel_name) VALUES "
                          "('jobs'), (printf('%.20000c', 'x'))");
        (void)heap_limit(0);
        CHECK(sql_close(db) == SQLITE_OK);
    }
}

static void planted(void)
{
    char target[512];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    CHECK(clw_wake(sidecar, "x.nobody!") == 0);                       /* ENOENT */
    (void)snprintf(target, sizeof target, "%s/precious", folder);
    fd = open(target, O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0 && close(fd) == 0);
    (void)snprintf(path, sizeof path, "%s/link", sidecar);
    CHECK(symlink(target, path) == 0 && clw_wake(sidecar, "x.link!") == -ELOOP);
    (void)snprintf(path, sizeof path, "%s/file", sidecar);
    CHECK(link(target, path) == 0 && clw_wake(sidecar, "x.file!") == -EPERM);
    (void)snprintf(path, sizeof path, "%s/socket", sidecar);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(clw_wake(sidecar, "x.socket!") == 0);                       /* ENXIO */
    CHECK(close(fd) == 0);
    CHECK(close(fifo("dead")) == 0 && clw_wake(sidecar, "x.dead!") == 0);
    CHECK(access(sidecar, F_OK) == 0);
    fd = fifo("full");
    int writer = open(path, O_WRONLY | O_NONBLOCK);
    while (write(writer, path, sizeof path) > 0)
        ;
    CHECK(clw_wake(sidecar, "x.full!") == 1);                         /* EAGAIN */
    CHECK(close(writer) == 0 && close(fd) == 0);
    struct stat status;
    CHECK(stat(target, &status) == 0 && status.st_size == 0);
}

static void names(void)
{
    static char long_name[70000], long_path[PATH_MAX + 100];

    memset(long_name, 'x', sizeof long_name - 1);
    memset(long_path, 'y', sizeof long_path - 1);
    CHECK(clw_wake(sidecar, long_name) == 0);
    CHECK(clw_wake(sidecar, "") == 0 && clw_wake(sidecar, "!") == 0);
    CHECK(clw_wake(sidecar, "x.!") == 0 && clw_wake(sidecar, "\xff\xfe") == 0);
    CHECK(clw_wake(sidecar, "../precious") == 0 && clw_wake(sidecar, "a/b!") == 0);
    CHECK(clw_wake(long_path, "jobs") == -ENAMETOOLONG);
    CHECK(clw_wake(long_path, "x.token!") == -ENAMETOOLONG);
    CHECK(clw_wake_all(long_path) < 0);
    CHECK(clw_wake_all("/nowhere") == 0);
}

/* A byte for anything into each FIFO, and whatever lies beside them is passed over. */
static void everybody(int token)
{
    int making = fifo(".making"), frames = fifo("token.frames");

    (void)snprintf(path, sizeof path, "%s/token.full", sidecar);
    CHECK(mkdir(path, 0700) == 0);
    CHECK(clw_wake_all(sidecar) == 1 && wakes(token, ANYTHING) == 1);
    CHECK(wakes(making, 0) == 0 && wakes(frames, 0) == 0);
    CHECK(close(making) == 0 && close(frames) == 0);
}

int main(int count, char **arguments)
{
    CHECK(count == 4);
    void *library = dlopen(arguments[1], RTLD_NOW);
    CHECK(library);
    *(void **)&sql_open = dlsym(library, "sqlite3_open");
    *(void **)&sql_close = dlsym(library, "sqlite3_close");
    *(void **)&sql_exec = dlsym(library, "sqlite3_exec");
    *(void **)&heap_limit = dlsym(library, "sqlite3_hard_heap_limit64");
    *(void **)&heap_used = dlsym(library, "sqlite3_memory_used");
    *(void **)&set_authorizer = dlsym(library, "sqlite3_set_authorizer");
    (void)snprintf(folder, sizeof folder, "%s", arguments[3]);
    (void)snprintf(sidecar, sizeof sidecar, "%s/wake", folder);
    CHECK(mkdir(sidecar, 0700) == 0);
    (void)snprintf(path, sizeof path, "%s/@jobs", sidecar);
    CHECK(mkdir(path, 0700) == 0);

    CHECK(clw_use_library("/nowhere.so") == -ENOENT);
    CHECK(clw_use_library(arguments[1]) == 0);
    uintptr_t garbage[2] = {0, 0x1234};
    CHECK(!clw_connection_of(0) && !clw_connection_of(8));
    CHECK(!clw_connection_of((uintptr_t)&garbage[0]) && !clw_connection_of((uintptr_t)&garbage[1]));

    int token = fifo("token"), jobs = fifo("@jobs/token");
    everybody(token);
    commits(token, jobs);
    denied(token);
    same_copy(arguments[1], library);
    second_copy(arguments[2], token);
    if (heap_limit)
        out_of_memory();
    planted();
    names();
    (void)close(token);
    (void)close(jobs);
    return 0;
}
