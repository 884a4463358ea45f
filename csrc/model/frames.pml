/* A process-local channel: rows and frames are two ways to the one process that
 * receives on it, and what a sender sends must come once, and in order.
 * channels_lite/delivery: frames.py, reader.py, cursors.py and arrivals.py, step by step; what happens
 * under one lock there is one step here.  Each message goes the one way or the
 * other at will: a socket may be hidden or full at any time.
 *
 * -DONE_PROCESS  the senders are two loops of one process, which share what it
 *                knows of its last row
 * -DEXPIRY       a row may expire, and be swept away by another process, unread
 * -DREWIND       the table may be flushed: ids begin again, in another generation
 *
 * Mutants, each of which breaks one rule: -DNO_AFTER -DDRAIN_TOO_EARLY -DROWS_FIRST
 * -DHELD_IS_FOUND -DNO_CURSOR -DRESET_UNDER_LOOK; with ONE_PROCESS -DLAST_NOTE_COUNTS;
 * with EXPIRY -DGONE_IS_AWAITED; with REWIND -DNO_GENERATION -DCURSOR_SURVIVES
 * -DRELEASE_BLIND -DGENERATION_FIRST -DFRAME_OF_OLD_TAKES_ROWS
 */
#if defined(EXPIRY) || defined(REWIND)
#define SENDERS 1
#define EACH    3 /* messages of each sender */
#else
#define SENDERS 2
#define EACH    2
#endif
#define ROWS    (SENDERS * EACH) /* so many at most, with ids from 1 on */
#define max(a, b) (a > b -> a : b)

typedef Row { bool is_in, is_read; byte who, number }
Row table[ROWS + 1];
byte last_id;
bit generation;      /* of the table */

/* The socket, and the frames read from it that come after a row still to be read:
 * sender, number, `after`, the last row that the sender had put, and its generation;
 * and whether the look under way finds each row that was there when they came. */
chan socket = [ROWS] of { byte, byte, byte, bit };
chan held = [ROWS] of { byte, byte, byte, bit, bit };
byte last_row[SENDERS];
bit sends_by[SENDERS]; /* the generation that each sender knows */

bool fifo;           /* a byte is in the FIFO */
byte cursor;         /* up to which rows were read and are not deleted yet; 0: none */
byte seen;           /* the last row that was read, whether deleted or not */
bit known;           /* the generation that the receiver works with */
byte last[SENDERS];  /* the last number of each sender that was delivered */

#ifdef ONE_PROCESS
#define MINE 0
#else
#define MINE _pid
#endif

active [SENDERS] proctype sender()
{
	byte n = 1, id;
	do
	:: n <= EACH ->
		if
		:: socket!_pid, n, last_row[MINE], sends_by[MINE] /* FrameSender.send */
		:: d_step {                       /* sql.insert, W2 */
			last_id++;
			id = last_id;
			table[id].is_in = true;
			table[id].is_read = false;
			table[id].who = _pid;
			table[id].number = n;
			/* Generations.begin */
			last_row[MINE] = (sends_by[MINE] == generation -> last_row[MINE] : 0);
			sends_by[MINE] = generation
		   }
#ifdef LAST_NOTE_COUNTS
		   last_row[MINE] = id;           /* FrameSender.put_row */
#else
		   last_row[MINE] = max(id, last_row[MINE]);
#endif
		   id = 0;
		   fifo = true                    /* W3 */
		fi;
		n++
	:: else -> break
	od
}

inline deliver(from, nr)
{
#if defined(EXPIRY) || defined(REWIND)
	assert(nr > last[from]);
#else
	assert(nr == last[from] + 1); /* once, and in order */
#endif
	last[from] = nr
}

/* Arrivals.take_rows: the rows up to `limit` that the look has found. */
inline take_rows(limit)
{
	do
	:: at < limit ->
		at++;
		if
		:: found[at].is_in ->
			deliver(found[at].who, found[at].number);
			found[at].is_in = false;
			table[at].is_read = table[at].is_read || known == generation;
			cursor = at;
			to_acknowledge = at;
			release_by = known;
			seen = max(at, seen)
		:: else
		fi
	:: else -> break
	od
}

inline drain()
{
	do
	:: nempty(socket) -> socket?s, n, after, by; held!s, n, after, by, 0
	:: empty(socket) -> break
	od
}

/* Each held frame once, in the order of arrival. */
inline next_held()
{
	count--;
	held?s, n, after, by, is_due
}

/* Where the look under way has got to. */
mtype = { NONE, BEGUN, ASKED, FOUND, READ, DELIVERED };

#ifdef NO_GENERATION
#define IS_OF_NOW true
#define IS_DUE(row) (after <= row)
#else
#define IS_OF_NOW (by == known)
/* What was sent under a former generation comes before all rows of this one. */
#define IS_DUE(row) (by < known || (by == known && after <= row))
#endif
#ifdef FRAME_OF_OLD_TAKES_ROWS
#define TAKES_ROWS true
#else
#define TAKES_ROWS IS_OF_NOW
#endif

/* The threads of the process that receives: whichever can move does. */
active proctype receiver()
{
	mtype look = NONE;
	bool again;
	Row found[ROWS + 1];
	byte asked, last_found, to_acknowledge, acknowledging;
	byte at, count, s, n, after, row;
	bit by, is_due, found_by, release_by, acknowledging_by;
end:	do
	/* Listener._on_readable, R2; or the look that was asked for during the last one. */
	:: fifo -> fifo = false; again = true
	/* Reader.look, R3: one at a time; under no lock but that. */
	:: look == NONE && again -> atomic { again = false; look = BEGUN }
	:: look == BEGUN -> d_step {
#ifdef DRAIN_TOO_EARLY
		drain();
#endif
		count = len(held);
		do
		:: count > 0 -> next_held(); held!s, n, after, by, 1
		:: else -> break
		od;
		s = 0; n = 0; after = 0; by = 0; is_due = 0;
		asked = cursor;
		look = ASKED
	   }
#ifdef GENERATION_FIRST
	:: look == ASKED -> found_by = generation; look = FOUND
	:: look == FOUND -> d_step {
#else
	/* sql.look: one SELECT, */
	:: look == ASKED -> d_step {
#endif
		at = 0;
		last_found = 0;
		do
		:: at < ROWS ->
			at++;
#ifdef NO_CURSOR
			found[at].is_in = table[at].is_in;
#else
			found[at].is_in = table[at].is_in && at > asked;
#endif
			found[at].who = table[at].who;
			found[at].number = table[at].number;
			last_found = (found[at].is_in -> at : last_found)
		:: else -> break
		od;
		at = 0; asked = 0;
#if defined(REWIND) && !defined(GENERATION_FIRST)
		look = FOUND
	   }
	/* and then the generation that it was of. */
	:: look == FOUND -> d_step {
		found_by = generation;
#endif
		look = READ
	   }
	/* Generations.is_over: look again. */
	:: look == READ && found_by != known -> d_step {
		known = found_by;
#ifndef CURSOR_SURVIVES
		cursor = 0;
#endif
		seen = 0;
		to_acknowledge = 0;
		do
		:: at < ROWS -> at++; found[at].is_in = false; found[at].who = 0; found[at].number = 0
		:: else -> break
		od;
		at = 0; last_found = 0;
		again = true;
		look = DELIVERED
	   }
	/* Reader._take_in and Arrivals.take_rows, under the lock of the frames. */
	:: look == READ && found_by == known -> d_step {
#ifdef ROWS_FIRST
		take_rows(ROWS);
#endif
#ifndef DRAIN_TOO_EARLY
		drain();
#endif
		count = len(held);
		do
		:: count > 0 ->
			next_held();
#if defined(NO_AFTER) || defined(HELD_IS_FOUND)
			is_due = true;
#elif defined(GONE_IS_AWAITED)
			is_due = (after <= max(last_found, seen));
#else
			/* A row that was there before the look was found by it, or is gone. */
			is_due = is_due || IS_DUE(max(last_found, seen));
#endif
			held!s, n, after, by, is_due
		:: else -> break
		od;
		/* Row by row, and after each the frames that name it. */
		do
		:: row <= ROWS ->
			take_rows(row);
			count = len(held);
			do
			:: count > 0 ->
				next_held();
				if
				:: is_due && row == (TAKES_ROWS -> after : 0) ->
					deliver(s, n);
					seen = (IS_OF_NOW -> max(after, seen) : seen)
				:: else -> held!s, n, after, by, is_due
				fi
			:: else -> break
			od;
			row++
		:: else -> break
		od;
		again = again || nempty(held);
		at = 0; row = 0; last_found = 0;
		s = 0; n = 0; after = 0; by = 0; is_due = 0;
		look = DELIVERED
	   }
	/* Reader._looked. */
	:: look == DELIVERED -> look = NONE
	/* Reader.take_frames, under the lock of the frames. */
	:: nempty(socket) -> d_step {
		drain();
		count = len(held);
		do
		:: count > 0 ->
			next_held();
			if
#ifdef NO_AFTER
			:: true ->
#else
			:: IS_DUE(seen) ->
#endif
				deliver(s, n)
			:: else -> held!s, n, after, by, is_due
			fi
		:: else -> break
		od;
		again = again || nempty(held);
		s = 0; n = 0; after = 0; by = 0; is_due = 0
	   }
	/* Reader.acknowledge, which deletes what was read; then Reader._acknowledged. */
	:: acknowledging == 0 && to_acknowledge > 0 -> d_step {
		acknowledging = to_acknowledge;
		acknowledging_by = release_by;
		to_acknowledge = 0;
		at = 0;
		do
#ifdef ACKNOWLEDGE_BLIND
		:: at < acknowledging ->
#else
		:: at < acknowledging && acknowledging_by == generation ->
#endif
			at++;
			assert(!table[at].is_in || table[at].is_read);
			table[at].is_in = false
		:: else -> break
		od;
		at = 0
	   }
	:: acknowledging > 0 -> d_step {
#ifdef RESET_UNDER_LOOK
		cursor = 0;
#else
		if
		:: look == NONE && cursor == acknowledging && acknowledging_by == known -> cursor = 0
		:: else
		fi;
#endif
		acknowledging = 0
	   }
	od
}

#ifdef EXPIRY
active proctype sweeper()
{
	if
	:: last_id > 0 -> table[last_id].is_in = false
	:: true
	fi
}
/* No frame waits for ever for a row that is gone. */
#define IS_DONE (len(socket) + len(held) == 0)
#elif defined(REWIND)
active proctype flusher()
{
	byte at;
	if
	:: d_step {
		do
		:: at < ROWS -> at++; table[at].is_in = false
		:: else -> break
		od;
		at = 0;
		last_id = 0;
		generation = 1
	   }
	:: true
	fi
}
/* Nor does any row that came after the flush. */
#define IS_DONE (len(socket) + len(held) == 0 && \
	!table[1].is_in && !table[2].is_in && !table[3].is_in)
#else
#define IS_DONE (last[0] == EACH && last[1] == EACH)
#endif

/* Every message is delivered, without the fallback look. */
ltl delivery { <>[] IS_DONE }
