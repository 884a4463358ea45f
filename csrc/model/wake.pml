/* The wake-up protocol of csrc/wakeup.h.  Two senders each put a row for a plain
 * channel that both readers wait on.  SIGKILL may hit a sender and reader 1 before
 * any step.
 *
 * -DLOCAL         one reader, and nobody is killed; sender 0 puts a row for a
 *                 process-local channel, too, and another program may hold the write
 *                 lock for longer than a claim waits for it
 * -DKILL_AT_WAKE  also between a commit and its wake-up; needs
 * -DFLOOR         the fallback look, after any time
 *
 * Mutants, each of which breaks one rule: -DWAKE_BEFORE_COMMIT -DLOOK_BEFORE_ARM
 * -DWAKE_ONE -DCLAIM_BY_SELECT -DGIVE_BACK_SILENTLY
 * -DGIVE_BACK_BY_LOOP -DFORGET_ASKED; with LOCAL
 * -DLOOK_BEFORE_DRAIN -DFULL_AT_ITS_WORD -DFORGET_REFUSED
 */
#define SENDERS 2
#ifdef LOCAL
#define READERS 1
#define IS_OWN  true
#else
#define READERS 2
#define IS_OWN  false
#endif

#define OWN   1 /* what a byte in a FIFO says */
#define PLAIN 2

bool plain[SENDERS];     /* the row of each sender is in the table */
bool in_hand[SENDERS];   /* it is claimed */
bool delivered[SENDERS]; /* it has reached somebody */
byte last_id;            /* rows put for the process-local channel */
byte cursor;             /* how many of them reader 0 has read */
#ifdef LOCAL
byte refusals = 1;       /* claims that will wait for the lock in vain */
#else
byte refusals = 0;
#endif

bool armed[2];     /* the FIFO is there, and watched */
byte bytes[2];     /* in it: two at most, then it takes no more */
byte signs[2];     /* what they say */

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
#define IS_TIME is_late
#endif

/* Where nobody has armed there is no FIFO, and nobody is woken. */
#define WAKE(reader, sign) atomic { if \
	:: armed[reader] && bytes[reader] < 2 -> bytes[reader]++; signs[reader] = signs[reader] | sign \
	:: else fi }
#ifdef WAKE_ONE
#define WAKE_ALL if \
	:: armed[0] -> WAKE(0, PLAIN) \
	:: armed[1] -> WAKE(1, PLAIN) \
	:: else fi
#else
#define WAKE_ALL WAKE(0, PLAIN); WAKE(1, PLAIN)
#endif

#ifdef WAKE_BEFORE_COMMIT
#define PUT(row, wakes) wakes; row
#else
#define PUT(row, wakes) atomic { row; owes[_pid] = true } /* W2 */; \
	wakes /* W3 */; owes[_pid] = false
#endif
#if defined(GIVE_BACK_BY_LOOP) /* that was closed with its receiver */
#define GIVE_BACK(row) skip
#elif defined(GIVE_BACK_SILENTLY)
#define GIVE_BACK(row) atomic { plain[row] = true; in_hand[row] = false }
#else
#define GIVE_BACK(row) PUT(plain[row] = true; in_hand[row] = false, WAKE_ALL)
#endif
/* To a receiver, which receives again; or it was cancelled meanwhile. */
#define HAND_OVER if \
	:: assert(!delivered[got]); delivered[got] = true; in_hand[got] = false; \
		got = 0; is_due = true; is_claiming = false \
	:: me == 1 -> is_cancelled = true \
	fi
/* DELETE ... RETURNING: of two processes only one gets the row. */
#ifdef CLAIM_BY_SELECT
#define CLAIM(row) plain[row]; plain[row] = false; atomic { got = row; in_hand[row] = true; HAND_OVER }
#else
#define CLAIM(row) atomic { plain[row]; plain[row] = false; got = row; in_hand[row] = true; HAND_OVER }
#endif

active [SENDERS] proctype sender()
{
	{
		PUT(plain[_pid] = true, WAKE_ALL);
#ifdef LOCAL
		if
		:: _pid == 0 -> PUT(last_id++, WAKE(0, OWN))
		:: else
		fi
#endif
	} unless { IS_KILLED }
}

inline drain()
{
	d_step {
		is_looking = is_looking || (IS_OWN && (signs[me] & OWN));
		is_due = is_due || (signs[me] & PLAIN);
#ifndef FULL_AT_ITS_WORD
		is_looking = is_looking || (IS_OWN && bytes[me] == 2); /* there may have been others */
		is_due = is_due || bytes[me] == 2;
#endif
		bytes[me] = 0;
		signs[me] = 0
	}
}

/* Each part of a process does its own; whichever can go on does. */
active [READERS] proctype reader()
{
	byte me = _pid - SENDERS, got;
	bool is_looking, is_due, is_claiming, is_answered, is_late, is_cancelled;
	{
#ifdef LOOK_BEFORE_ARM
		cursor = (IS_OWN -> last_id : cursor);
		armed[me] = true;
#else
		armed[me] = true; /* R1 */
		is_looking = IS_OWN;
		is_due = true;
#endif
end:		do
		/* R2 */
#ifdef LOOK_BEFORE_DRAIN
		:: bytes[me] > 0 && !is_looking ->
			cursor = (IS_OWN -> last_id : cursor);
			drain();
			is_looking = false
#else
		:: bytes[me] > 0 -> drain()
#endif
		/* R3: a look reads, */
		:: is_looking -> atomic {
			is_looking = false;
			cursor = (IS_OWN -> last_id : cursor)
		   }
		/* and a claim, one at a time, claims. */
		:: is_due && !is_claiming -> atomic { is_due = false; is_claiming = true }
		:: is_claiming && !is_answered && !is_cancelled && !plain[0] && !plain[1] -> is_answered = true
		:: is_answered -> atomic {
			is_answered = false;
			is_claiming = false;
#ifdef FORGET_ASKED
			is_due = false /* by a byte that came meanwhile */
#endif
		   }
		:: is_claiming && !is_answered && !is_cancelled && refusals > 0 -> atomic {
			refusals--;
			is_claiming = false;
#ifndef FORGET_REFUSED
			is_late = true
#endif
		   }
		:: is_claiming && !is_answered && !is_cancelled && (plain[0] || plain[1]) ->
			if
			:: CLAIM(0)
			:: CLAIM(1)
			:: !plain[0] && !plain[1] -> is_claiming = false /* another one was quicker */
			fi
		/* It waits no more, and what it claimed is another's. */
		:: is_cancelled -> GIVE_BACK(got); break
		/* R4; R5: by the clock it asks for everything. */
		:: IS_TIME && !is_looking && !is_due && !is_claiming -> atomic {
			is_late = false;
			is_looking = IS_OWN;
			is_due = true
		   }
		od
	} unless { atomic { IS_KILLED; armed[me] = false; in_hand[got] = false } }
}

/* Kills whom it likes, when it likes; reader 0 lives, for somebody is to be woken. */
active proctype killer()
{
#ifndef LOCAL
	do
	:: kill[0]!0
	:: kill[3]!0
	:: break
	od
#endif
	skip
}

/* No row waits for ever, in the table or in a hand. */
ltl delivery { []<> (!plain[0] && !plain[1] && !in_hand[0] && !in_hand[1] && cursor == last_id) }
