/* A process-local channel: rows and frames are two ways to the one process that
 * receives on it, and what a sender sends must come once, and in order.
 * channels_lite/frames.py, reader.py and inbox.py, step by step.
 *
 * Mutants: -DNO_AFTER  -DROWS_ALONE  -DNO_CURSOR  -DRESET_UNDER_LOOK
 */
#define SENDERS  2
#define EACH     2 /* messages of each sender */
#define ROWS     6 /* ids are 1 to 4 */

bool in_table[ROWS];
byte row_sender[ROWS];
byte row_number[ROWS];
byte next_id = 1;

/* The socket, and the frames that were read from it and come after a row still to be read:
 * sender, number, and the id that the frame names in `after`. */
chan socket = [4] of { byte, byte, byte };
chan held = [4] of { byte, byte, byte };

bool woken;          /* a row was committed since the last look began */
byte cursor;         /* up to which rows were read and are not deleted yet; 0: none */
byte seen;           /* the last row that was read, whether deleted or not */
byte last[SENDERS];  /* the last number that was delivered of each */

inline deliver_one(s, n)
{
	assert(n == last[s] + 1); /* once, and in order */
	last[s] = n
}

active [SENDERS] proctype sender()
{
	byte n = 1, last_row, me = _pid;
	do
	:: n <= EACH ->
		if
		:: socket!me, n, last_row  /* FrameSender: at once */
		:: d_step {                /* sql.post; who is full, or polls, has no socket */
			in_table[next_id] = true;
			row_sender[next_id] = me;
			row_number[next_id] = n;
			last_row = next_id;
			next_id++
		   }
		   woken = true            /* W3 */
		fi;
		n++
	:: else -> break
	od
}

/* Rows up to `limit` of what the look has found. */
inline take_rows(limit)
{
	do
	:: at < limit ->
		at++;
		if
		:: found[at] ->
			deliver_one(row_sender[at], row_number[at]);
			cursor = at;
			if :: at > seen -> seen = at :: else fi
		:: else
		fi
	:: else -> break
	od
}

active proctype receiver()
{
	byte looking, at, limit, count, before, s, n, after, deleting, last_found;
	bool found[ROWS], again;
end:	do
	/* Reader.look: asks, for the rows behind the cursor as it is now. */
	:: looking == 0 && (woken || again) -> d_step {
		woken = false; again = false;
		before = len(held);
		limit = cursor;
		looking = 1
	   }
	/* sql.look: one SELECT. */
	:: looking == 1 -> d_step {
		at = 0; last_found = 0;
		do
		:: at < ROWS - 2 ->
			at++;
#ifdef NO_CURSOR
			found[at] = in_table[at];
#else
			found[at] = in_table[at] && at > limit;
#endif
			if :: found[at] -> last_found = at :: else fi
		:: else -> break
		od;
		looking = 2
	   }
	/* Reader._deliver: frames that are there by now come first, each after the row it names. */
	:: looking == 2 -> atomic {
#ifndef ROWS_ALONE
		do
		:: socket?s, n, after -> held!s, n, after
		:: empty(socket) -> break
		od;
#endif
		at = 0; count = 0;
		do
		:: held?[s, n, after] ->
			held?<s, n, after>;
			if
#ifdef NO_AFTER
			:: true ->
#else
			/* Those that were held when the look began: their row is found by it, or gone. */
			:: count < before || after <= last_found || after <= seen ->
#endif
				held?s, n, after;
				take_rows(after);
				deliver_one(s, n);
				if :: after > seen -> seen = after :: else fi;
				count++
			:: else -> break
			fi
		:: empty(held) -> break
		od;
		take_rows(ROWS - 2);
		again = again || nempty(held);
		looking = 0
	   }
	/* Reader.take_frames: at once, unless a look is under way or a row is to come first. */
	:: nempty(socket) && looking == 0 -> atomic {
		do
		:: socket?s, n, after -> held!s, n, after
		:: empty(socket) -> break
		od;
		do
		:: held?[s, n, after] ->
			held?<s, n, after>;
			if
#ifndef NO_AFTER
			:: after > seen -> again = true; break
			:: else ->
#else
			:: true ->
#endif
				held?s, n, after;
				deliver_one(s, n)
			fi
		:: empty(held) -> break
		od
	   }
	/* Reader.release: deletes what was read; a while later the cursor begins again. */
	:: deleting == 0 && cursor > 0 -> deleting = cursor
	:: deleting > 0 -> d_step {
		at = 0;
		do
		:: at < deleting -> at++; in_table[at] = false
		:: else -> break
		od;
#ifndef RESET_UNDER_LOOK
		if
		:: looking == 0 && cursor == deleting -> cursor = 0
		:: else
		fi;
#else
		cursor = 0;
#endif
		deleting = 0
	   }
	:: timeout -> break
	od;
	/* Nothing can move any more. */
	assert(last[0] == EACH && last[1] == EACH)
}
