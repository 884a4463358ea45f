/* W1 and W2: noticing that a commit inserted rows, whoever made it.
 *
 * Three hooks sit on a connection that Python opened:
 *   update    an INSERT into EVENTS or MESSAGES widens the range of rowids of this
 *             transaction.  Spurious after ROLLBACK TO; harmless, see wal.
 *   commit    only if there is such a range: (re)takes the WAL slot.  Taking it
 *             this late leaves connections that never insert untouched, and
 *             outlives an application's `PRAGMA wal_autocheckpoint`, which
 *             lives in the same slot.
 *   rollback  forgets the range.
 *   wal       runs after the commit, with the write lock released and the rows
 *             visible (sqlite.org/c3ref/wal_hook.html, which also permits
 *             statements here): reads the channels of the range, or the members
 *             of its groups, wakes their readers.  Rows that were rolled back
 *             are not there to be read.
 *             Then it does what the automatic checkpoint it displaced did.
 * Not seen: rollback-journal databases, WITHOUT ROWID tables, and a commit made
 * by resetting an unfinished `INSERT ... RETURNING`.  The fallback finds those.
 *
 * Thread: the hooks run on the thread that uses the connection, inside
 * SQLite's call, under its connection mutex.  GIL: not held; no Python here.
 * Owner: a `clw_hook` belongs to its connection and is freed by it, as the
 * destructor of a function that is registered for nothing else.
 * Fork: nothing to do; an inherited connection must not be used anyway.
 * SQLite is never linked: a second copy in a process would drop the first
 * one's POSIX locks (sqlite.org/howtocorrupt.html 2.2.1).  We call the copy that
 * Python loaded, found by dlsym or handed over by SQLite itself: the first that
 * we learn of, for ever.  The hooks on its connections would hand them to
 * another copy's functions otherwise; connections of other copies get no hooks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wakeup.h"

#define EVENTS "channels_lite_event"
#define MESSAGES "channels_lite_groupmessage"
#define MEMBERS "channels_lite_groupmembership"

enum { SQLITE_OK = 0, SQLITE_UTF8 = 1, SQLITE_NOMEM = 7, SQLITE_INSERT = 18, SQLITE_ROW = 100 };

typedef struct rowids {
    int64_t first, last;      /* inserted since the last commit; first 0: none */
} rowids;

typedef struct clw_hook {
    sqlite3 *db;              /* the connection that owns this */
    rowids events, messages;
    int autocheckpoint;       /* frames; what the displaced WAL hook did; 0: nothing */
    char sidecar[];           /* the directory of FIFOs beside the database */
} clw_hook;

typedef struct sqlite3_stmt sqlite3_stmt;
typedef void (*any_function)(void);

/* What we call of SQLite, with the place of each in sqlite3_api_routines, the
 * append-only table that SQLite hands to extensions (sqlite3ext.h). */
typedef struct routines {
    int (*bind_int64)(sqlite3_stmt *, int, int64_t);
    const unsigned char *(*column_text)(sqlite3_stmt *, int);
    void *(*commit_hook)(sqlite3 *, int (*)(void *), void *);
    int (*create_function_v2)(sqlite3 *, const char *, int, int, void *, any_function, any_function,
                              any_function, void (*)(void *));
    const char *(*errmsg)(sqlite3 *);
    int (*finalize)(sqlite3_stmt *);
    int (*prepare_v2)(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
    void *(*rollback_hook)(sqlite3 *, void (*)(void *), void *);
    int (*step)(sqlite3_stmt *);
    void *(*update_hook)(sqlite3 *, void (*)(void *, int, const char *, const char *, int64_t),
                         void *);
    void *(*vfs_find)(const char *);
    int (*wal_checkpoint)(sqlite3 *, const char *);
    void *(*wal_hook)(sqlite3 *, int (*)(void *, sqlite3 *, const char *, int), void *);
} routines;

static const struct {
    const char *name;
    size_t field, place;
} symbols[] = {
    {"sqlite3_bind_int64", offsetof(routines, bind_int64), 5},
    {"sqlite3_column_text", offsetof(routines, column_text), 36},
    {"sqlite3_commit_hook", offsetof(routines, commit_hook), 40},
    {"sqlite3_errmsg", offsetof(routines, errmsg), 53},
    {"sqlite3_finalize", offsetof(routines, finalize), 57},
    {"sqlite3_rollback_hook", offsetof(routines, rollback_hook), 90},
    {"sqlite3_step", offsetof(routines, step), 94},
    {"sqlite3_update_hook", offsetof(routines, update_hook), 100},
    {"sqlite3_prepare_v2", offsetof(routines, prepare_v2), 116},
    {"sqlite3_vfs_find", offsetof(routines, vfs_find), 141},
    {"sqlite3_create_function_v2", offsetof(routines, create_function_v2), 162},
    {"sqlite3_wal_checkpoint", offsetof(routines, wal_checkpoint), 174},
    {"sqlite3_wal_hook", offsetof(routines, wal_hook), 175},
};
enum { SYMBOLS = sizeof symbols / sizeof *symbols };
_Static_assert(SYMBOLS * sizeof(any_function) == sizeof(routines), "a place for each");

/* Those of the copy in use; set once, and kept. */
static const routines *api;

int clw_stop_before_wake;
static unsigned long rows_seen;
static __thread sqlite3 *extension_connection;

/* Thread: any.  From now on those are called; -EBUSY if those of another copy
 * are, -ENOMEM. */
static int use(const any_function *found)
{
    routines *these = malloc(sizeof *these);
    const routines *others = NULL;
    int is_same;

    if (!these)
        return -ENOMEM;
    for (size_t i = 0; i < SYMBOLS; i++)
        memcpy((char *)these + symbols[i].field, &found[i], sizeof found[i]);
    if (__atomic_compare_exchange_n(&api, &others, these, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return 0;
    is_same = memcmp(these, others, sizeof *these) == 0;
    free(these);
    return is_same ? 0 : -EBUSY;
}

/* Thread: any.  Finds SQLite's functions in the library at `path`, which must
 * be loaded already: Python's _sqlite3 module.  -ENOENT: it is not; -ENOSYS: it
 * lacks one; -EBUSY, -ENOMEM: see `use`. */
int clw_use_library(const char *path)
{
    any_function found[SYMBOLS];
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    int result = 0;

    if (!library)
        return -ENOENT;
    for (size_t i = 0; i < SYMBOLS && result == 0; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol)
            result = -ENOSYS;
        memcpy(&found[i], &symbol, sizeof symbol);
    }
    if (result == 0)
        result = use(found);
    if (result < 0)
        (void)dlclose(library); /* else the handle is kept: these functions stay valid */
    return result;
}

/* Thread: any.  What `Connection.load_extension` calls: SQLite itself hands over
 * the connection and its functions.  Sets nothing on the connection, and takes
 * nothing of another copy: whoever asks for the connection then gets NULL. */
int sqlite3_wakeup_init(sqlite3 *db, char **ret_error, const any_function *table);
int sqlite3_wakeup_init(sqlite3 *db, char **ret_error, const any_function *table)
{
    any_function found[SYMBOLS];

    (void)ret_error;
    for (size_t i = 0; i < SYMBOLS; i++)
        found[i] = table[symbols[i].place];
    extension_connection = use(found) == 0 ? db : NULL;
    return SQLITE_OK;
}

/* The connection that load_extension was last called on in this thread. */
sqlite3 *clw_extension_connection(void)
{
    sqlite3 *db = extension_connection;
    extension_connection = NULL;
    return db;
}

/* Copies a word from an address that may not be mapped: write(2) answers
 * EFAULT where a load would be a SIGSEGV. */
static int read_word(int out, int in, uintptr_t address, uintptr_t *ret_word)
{
    uintptr_t word;

    if (address == 0 || write(out, (const void *)address, sizeof word) != (ssize_t)sizeof word)
        return -EFAULT;
    if (read(in, &word, sizeof word) != (ssize_t)sizeof word)
        return -EIO;
    *ret_word = word;
    return 0;
}

/* The sqlite3* stored at address `field`, or NULL if what is stored there is
 * anything else: NULL, garbage, another object, or a connection of a second
 * copy of SQLite.  Proof: struct sqlite3 begins with its sqlite3_vfs pointer,
 * and the default VFS of *this* copy is known. */
sqlite3 *clw_connection_of(uintptr_t field)
{
    uintptr_t db = 0, vfs = 0;
    int ends[2], failed;

    if (!__atomic_load_n(&api, __ATOMIC_ACQUIRE) || pipe(ends) < 0)
        return NULL;
    failed = read_word(ends[1], ends[0], field, &db) || read_word(ends[1], ends[0], db, &vfs);
    (void)close(ends[0]);
    (void)close(ends[1]);
    if (failed || vfs == 0 || vfs != (uintptr_t)api->vfs_find(NULL))
        return NULL;
    return (sqlite3 *)db;
}

/* The body of the function that exists for its destructor only: NULL. */
static void nothing(void)
{
}

static void on_update(void *pointer, int operation, const char *database, const char *table,
                      int64_t rowid)
{
    clw_hook *hook = pointer;
    rowids *seen;

    if (operation != SQLITE_INSERT || strcmp(database, "main") != 0)
        return;
    if (strcmp(table, EVENTS) == 0)
        seen = &hook->events;
    else if (strcmp(table, MESSAGES) == 0)
        seen = &hook->messages;
    else
        return;
    if (seen->first == 0 || rowid < seen->first)
        seen->first = rowid;
    if (rowid > seen->last)
        seen->last = rowid;
    __atomic_add_fetch(&rows_seen, 1, __ATOMIC_RELAXED);
}

static void on_rollback(void *pointer)
{
    static const rowids none;
    clw_hook *hook = pointer;

    hook->events = hook->messages = none;
}

/* Wakes the readers of the names that the statement returns for these rows. */
static void wake_readers(const clw_hook *hook, sqlite3 *db, const char *names, rowids seen)
{
    sqlite3_stmt *statement = NULL;

    if (seen.first && api->prepare_v2(db, names, -1, &statement, NULL) == SQLITE_OK) {
        (void)api->bind_int64(statement, 1, seen.first);
        (void)api->bind_int64(statement, 2, seen.last);
        while (api->step(statement) == SQLITE_ROW) {
            const char *name = (const char *)api->column_text(statement, 0);
            if (name)
                (void)clw_wake(hook->sidecar, name);
        }
    }
    (void)api->finalize(statement);
}

static int on_wal(void *pointer, sqlite3 *db, const char *database, int frames)
{
    static const char channels[] =
        "SELECT DISTINCT channel_name FROM main." EVENTS " WHERE id BETWEEN ?1 AND ?2";
    /* One name a process, up to its "!", however many members it has. */
    static const char members[] =
        "SELECT DISTINCT substr(channel_name, 1, instr(channel_name, '!')) FROM main." MEMBERS
        " WHERE group_name IN"
        " (SELECT group_name FROM main." MESSAGES " WHERE id BETWEEN ?1 AND ?2)";
    clw_hook *hook = pointer;
    rowids events = hook->events, messages = hook->messages;

    on_rollback(hook);
    if ((events.first || messages.first) && clw_stop_before_wake)
        (void)raise(SIGSTOP);
    wake_readers(hook, db, channels, events);
    wake_readers(hook, db, members, messages);
    if (hook->autocheckpoint > 0 && frames >= hook->autocheckpoint)
        (void)api->wal_checkpoint(db, database);
    return SQLITE_OK;
}

static int on_commit(void *pointer)
{
    clw_hook *hook = pointer;
    uintptr_t displaced;

    if (hook->events.first || hook->messages.first) {
        displaced = (uintptr_t)api->wal_hook(hook->db, on_wal, hook);
        /* The automatic checkpoint keeps its number of frames where a hook
         * keeps a pointer. */
        if (displaced != (uintptr_t)hook)
            hook->autocheckpoint = displaced <= INT_MAX ? (int)displaced : 0;
    }
    return 0; /* anything else would turn the commit into a rollback */
}

/* Whether the connection has our function, and so our hooks: 1 or 0; -errno if
 * it does not say, as where an authorizer denies it. */
static int is_attached(sqlite3 *db)
{
    sqlite3_stmt *call = NULL;
    int result = api->prepare_v2(db, "SELECT channels_lite_hook()", -1, &call, NULL);

    if (result == SQLITE_OK) {
        (void)api->finalize(call);
        return 1;
    }
    if (result == SQLITE_NOMEM)
        return -ENOMEM;
    return strcmp(api->errmsg(db), "no such function: channels_lite_hook") == 0 ? 0 : -EACCES;
}

/* Thread: the one that uses the connection; no other one may close it meanwhile.
 * Returns 0 also for one that is attached already; -EEXIST where another library
 * holds a slot, with our own hooks taken off again (SQLite has none to put the
 * other's back: it is off, too); -ENOMEM; and -EACCES, see `is_attached`. */
int clw_attach(sqlite3 *db, const char *sidecar)
{
    size_t size = strlen(sidecar) + 1;
    /* To register the function again would free the hook that the slots hold. */
    int strange, is_in = is_attached(db);
    clw_hook *hook;

    if (is_in != 0)
        return is_in < 0 ? is_in : 0;
    hook = calloc(1, sizeof *hook + size);
    if (!hook)
        return -ENOMEM;
    hook->db = db;
    memcpy(hook->sidecar, sidecar, size);
    /* On failure SQLite has called free() itself. */
    if (api->create_function_v2(db, "channels_lite_hook", 0, SQLITE_UTF8, hook, nothing, NULL, NULL,
                               free) != SQLITE_OK)
        return -ENOMEM;
    strange = api->update_hook(db, on_update, hook) != NULL;
    strange |= api->commit_hook(db, on_commit, hook) != NULL;
    strange |= api->rollback_hook(db, on_rollback, hook) != NULL;
    if (!strange)
        return 0;
    (void)api->update_hook(db, NULL, NULL);
    (void)api->commit_hook(db, NULL, NULL);
    (void)api->rollback_hook(db, NULL, NULL);
    /* Unregisters the function, which frees the hook. */
    (void)api->create_function_v2(db, "channels_lite_hook", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL,
                                 NULL);
    return -EEXIST;
}

/* Rows noticed by all hooks of this process: what the self-test watches. */
unsigned long clw_rows_seen(void)
{
    return __atomic_load_n(&rows_seen, __ATOMIC_RELAXED);
}
