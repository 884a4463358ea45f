/* The wake-up: what Python and C agree on.  This file is at once the cdef that
 * CFFI reads and the prototypes that hooks.c and wake.c include, so it holds no
 * preprocessor line.
 *
 * PROTOCOL.  A process that receives is a READER; it owns one FIFO,
 * SIDECAR/TOKEN, and a second name of it, SIDECAR/@CHANNEL/TOKEN, for each plain
 * channel it waits on.  TOKEN is the part of a process-local channel name
 * between its last '.' and its '!', so the row itself says whom to wake.  The
 * readers of a plain channel share one more FIFO, its QUEUE, SIDECAR/.@CHANNEL.
 *
 *   Waking (any process that commits a row):
 *   W1  the INSERT is noted, with its rowid (update hook);
 *   W2  the COMMIT returns: the row is visible to every other connection;
 *   W3  one byte goes into the FIFO of each reader of the row's channel.
 *       Process-local channel: exactly one FIFO.  Plain channel: the queue,
 *       whose byte is a turn for one reader; if nobody has a queue open, ALL
 *       its readers.
 *       The byte says what was written, so that a reader asks for no more:
 *         1      a row for a process-local channel;
 *         2 + s  a row for a plain channel, s the sum of its name's bytes modulo
 *                254 (channels_lite/wake/__init__.py `sign_of`);
 *         0      anything: a flush; and what former versions write.
 *       A FIFO that is full takes no byte: its reader is awake, and takes a
 *       FIFO that may have been full for one with a 0.
 *   Receiving (channels_lite/wake/listener.py):
 *   R1  arm: make the FIFO, watch it; once;
 *   R2  drain it to empty;
 *   R3  look: read what the table holds for this process, and claim from the
 *       plain channels that the bytes may mean;
 *   R4  sleep until it is readable, or until the fallback interval is over;
 *   R5  go to R2.
 *   A queue (channels_lite/wake/queues.py) is read by whoever can run, and only
 *   one byte at a time.  Who has taken a turn claims; if rows are left, or if no
 *   coroutine waits any more, it puts a turn back.
 *
 * No wake-up is lost iff W2 precedes W3, R1 precedes the first R3, R2 precedes
 * R3, and turns are put back.  A kill between W2 and W3, or with a turn in hand,
 * is what the fallback interval is for.
 */

typedef struct sqlite3 sqlite3;

/* hooks.c: getting at connections.  All return 0, or -errno. */
int clw_use_library(const char *path);
sqlite3 *clw_connection_of(uintptr_t field);
sqlite3 *clw_extension_connection(void);
int clw_attach(sqlite3 *db, const char *sidecar);
unsigned long clw_rows_seen(void);

/* A fail point, for tests only: not 0, and the process stops itself (SIGSTOP)
 * between W2 and W3 of a hooked commit. */
extern int clw_stop_before_wake;

/* wake.c: returns the number of readers woken, or -errno. */
int clw_wake(const char *sidecar, const char *channel);
int clw_wake_all(const char *sidecar);
