/* Turns at a plain channel, channels_lite/wake/queues.py: one wake-up for whoever can
 * run.  Two senders each put a row; two readers share the queue.  A byte in it may be of
 * several rows, for a commit leaves one.  A receiver of reader 1 may be cancelled at any
 * time.  SIGKILL may hit a sender before any step, and reader 1 before any step without a
 * turn in hand.
 *
 * -DKILL_AT_WAKE  a sender also between a commit and its wake-up, and reader 1 also with a
 *                 turn in hand; needs
 * -DFLOOR         the fallback look, after any time
 *
 * Mutants, each of which breaks one rule: -DLOOK_BEFORE_OPEN -DKEEP_TURN -DLEAVE_ROWS
 * -DFORGET_TURN -DLOOK_AWAY
 */
#define SENDERS 2

bool plain[SENDERS];     /* the row of each sender is in the table */
bool in_hand[SENDERS];   /* it is claimed */
bool delivered[SENDERS]; /* it has reached somebody */
bool opened[2];          /* the reader has the queue open */
bool turn;               /* there is a byte in it */

chan kill[SENDERS + 2] = [0] of { bit };
bool owes[SENDERS + 2];  /* has committed and not yet woken; or has a turn in hand */

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

/* What nobody has open takes no byte. */
#define WAKE atomic { if :: opened[0] || opened[1] -> turn = true :: else fi }
#define IS_ROW (plain[0] || plain[1])

active [SENDERS] proctype sender()
{
	{
		atomic { plain[_pid] = true; owes[_pid] = true } /* W2 */;
		WAKE /* W3 */;
		owes[_pid] = false
	} unless { IS_KILLED }
}

/* Each part of a process does its own; whichever can go on does. */
active [2] proctype reader()
{
	byte me = _pid - SENDERS, got;
	bool is_watching, is_waiting, is_due, is_claiming, has_got, is_done, is_passing;
	bool was_cancelled;
	{
#ifdef LOOK_BEFORE_OPEN
		is_waiting = true;
		is_due = IS_ROW;
		atomic { opened[me] = true; is_watching = true }
#else
		atomic { opened[me] = true; is_watching = true; is_waiting = true } /* R1 */
		is_due = true;
#endif
end:		do
		/* R2: a turn is taken, */
		:: is_watching && turn -> atomic {
			turn = false;
			owes[_pid] = true;
			if
			:: is_waiting -> is_due = true
			:: else -> is_watching = false; is_passing = true
			fi
		   }
		/* and passed on if nobody waits here. */
		:: is_passing -> atomic {
#ifndef KEEP_TURN
			turn = true;
#endif
			is_passing = false;
			owes[_pid] = is_due || is_claiming
		   }
		/* The next receive(), unless there is none. */
		:: !is_waiting && !was_cancelled -> atomic {
			is_waiting = true;
#ifndef LOOK_AWAY
			is_watching = true
#endif
		   }
		:: me == 1 && is_waiting && !was_cancelled -> atomic {
			is_waiting = false;
			was_cancelled = true
		   }
		/* R3: a claim, one at a time, */
		:: is_due && !is_claiming && is_waiting -> atomic { is_due = false; is_claiming = true }
		:: is_due && !is_claiming && !is_waiting -> atomic { is_due = false; is_passing = true }
		/* finds nothing, */
		:: is_claiming && !has_got && !is_done && !IS_ROW -> is_done = true
		:: is_done -> atomic {
			is_done = false;
			is_claiming = false;
#ifdef FORGET_TURN
			is_due = false; /* by a turn that was taken meanwhile */
#endif
			owes[_pid] = is_due || is_passing
		   }
		/* or a row, and asks whether there are more, */
		:: is_claiming && !has_got && !is_done && IS_ROW -> atomic {
			if
			:: plain[0] -> got = 0
			:: plain[1] -> got = 1
			fi;
			plain[got] = false;
			in_hand[got] = true;
			has_got = true;
#ifndef LEAVE_ROWS
			is_passing = IS_ROW
#endif
		   }
		/* which others may claim; and it is handed over, or put back. */
		:: has_got && !is_passing -> atomic {
			if
			:: is_waiting ->
				assert(!delivered[got]);
				delivered[got] = true;
				is_waiting = false
			:: else ->
				plain[got] = true;
				is_passing = true
			fi;
			in_hand[got] = false;
			has_got = false;
			got = 0;
			is_claiming = false;
			owes[_pid] = is_due || is_passing
		   }
		/* R5: by the clock. */
		:: IS_TIME && is_waiting && !is_due && !is_claiming -> is_due = true
		od
	} unless { atomic {
		IS_KILLED;
		opened[me] = false;
		turn = turn && opened[0]; /* what nobody has open is empty */
		if
		:: has_got -> in_hand[got] = false
		:: else
		fi
	} }
}

/* Kills whom it likes, when it likes; reader 0 lives, for somebody is to be woken. */
active proctype killer()
{
	do
	:: kill[0]!0
	:: kill[3]!0
	:: break
	od
}

/* No row waits for ever, in the table or in a hand. */
ltl delivery { []<> (!plain[0] && !plain[1] && !in_hand[0] && !in_hand[1]) }
