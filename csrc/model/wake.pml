/* The wake-up protocol of csrc/wakeup.h.  Two senders each put a row for a plain
 * channel that both readers wait on, then one for a process-local channel of
 * reader 0.  SIGKILL may hit each sender and reader 1 before any step.
 *
 * -DKILL_AT_WAKE  also between a commit and its wake-up; needs
 * -DFLOOR         the fallback look, after any time
 *
 * Mutants, each of which breaks one rule: -DWAKE_BEFORE_COMMIT -DLOOK_BEFORE_ARM
 * -DLOOK_BEFORE_DRAIN -DWAKE_ONE -DCLAIM_BY_SELECT -DGIVE_BACK_SILENTLY
 */
#define SENDERS 2
#define READERS 2

bool plain[SENDERS];     /* the row of each sender is in the table */
bool delivered[SENDERS]; /* it has reached somebody */
byte last_id;            /* rows put for the process-local channel */
byte cursor;             /* how many of them reader 0 has read */
bool armed[READERS];     /* the FIFO is there, and watched */
bool fifo[READERS];      /* it is readable; a second byte changes nothing */

chan kill[SENDERS + READERS] = [0] of { bit };
bool owes[SENDERS + READERS]; /* has committed and not yet woken */

#ifdef KILL_AT_WAKE
#define IS_KILLED kill[_pid]?_
#else
#define IS_KILLED kill[_pid]?eval(owes[_pid]) /* by a 0 */
#endif
#ifdef FLOOR
#define IS_TIME true
#else
#define IS_TIME false
#endif

/* Where nobody has armed there is no FIFO, and nobody is woken. */
#define WAKE(reader) fifo[reader] = fifo[reader] || armed[reader]
#ifdef WAKE_ONE
#define WAKE_ALL if \
	:: armed[0] -> WAKE(0) \
	:: armed[1] -> WAKE(1) \
	:: else fi
#else
#define WAKE_ALL WAKE(0); WAKE(1)
#endif

#ifdef WAKE_BEFORE_COMMIT
#define PUT(row, wakes) wakes; row
#else
#define PUT(row, wakes) atomic { row; owes[_pid] = true } /* W2 */; \
	wakes /* W3 */; owes[_pid] = false
#endif
#ifdef GIVE_BACK_SILENTLY
#define GIVE_BACK(row) row
#else
#define GIVE_BACK(row) PUT(row, WAKE_ALL)
#endif
/* DELETE ... RETURNING: of two processes only one gets the row. */
#ifdef CLAIM_BY_SELECT
#define CLAIM(row) plain[row]; plain[row] = false; got = row
#else
#define CLAIM(row) atomic { plain[row]; plain[row] = false; got = row }
#endif

active [SENDERS] proctype sender()
{
	{
		PUT(plain[_pid] = true, WAKE_ALL);
		if
		:: _pid == 0 -> PUT(last_id++, WAKE(0))
		:: else
		fi
	} unless { IS_KILLED }
}

/* Both kinds of rows, of the plain channel until there is none. */
inline look()
{
	if
	:: me == 0 -> cursor = last_id
	:: else
	fi;
	do
	:: plain[0] || plain[1] ->
		if
		:: CLAIM(0)
		:: CLAIM(1)
		:: !plain[0] && !plain[1] -> break /* another one was quicker */
		fi;
		if
		:: assert(!delivered[got]); delivered[got] = true
		:: me == 1 -> /* cancelled: it waits no more, and what it claimed is another's */
			GIVE_BACK(plain[got] = true);
			goto gone
		fi
	:: else -> break
	od
}

active [READERS] proctype reader()
{
	byte me = _pid - SENDERS, got;
	{
#ifdef LOOK_BEFORE_ARM
		look();
		armed[me] = true;
		goto end_asleep;
#else
		armed[me] = true; /* R1 */
#endif
		do
		::
#ifdef LOOK_BEFORE_DRAIN
			look();
			fifo[me] = false;
#else
			fifo[me] = false; /* R2 */
			look();           /* R3 */
#endif
end_asleep:		fifo[me] || IS_TIME       /* R4; R5 */
		od;
gone:		skip
	} unless { atomic { IS_KILLED; armed[me] = false } }
}

/* Kills whom it likes, when it likes; reader 0 lives, for somebody is to be woken. */
active proctype killer()
{
	do
	:: kill[0]!0
	:: kill[1]!0
	:: kill[3]!0
	:: break
	od
}

/* No row waits for ever. */
ltl delivery { []<> (!plain[0] && !plain[1] && cursor == last_id) }
