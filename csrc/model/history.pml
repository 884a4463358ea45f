/* A group's log and one member: Histories.look, _enter, _put, feed and _fed.  A sender
 * appends rows.  The process looks: it reads what is behind `seen`, and takes it in under
 * its lock.  What was taken in goes into the mailbox later, in slices.  The member joins
 * after row 1 at any time; its mailbox has room for one message, and may drop it unread.
 * It is behind then, and is read for alone, when its coroutine finds the mailbox empty.
 *
 * Mutants: -DLEVEL_BLIND, -DNEW_IS_LEVEL, -DNO_POSITION
 */
#define ROWS 4
#define AFTER 1

byte committed = AFTER;
byte seen;
byte received = AFTER;
bool has_joined, is_member, is_behind;
byte position;
chan ready = [ROWS] of { byte };
chan mailbox = [1] of { byte };

active proctype others()
{
	do
	:: committed < ROWS -> committed++
	:: !has_joined -> has_joined = true
	:: else -> break
	od
}

active proctype look()
{
	byte upto, row;
	bool finds_member;
	do
	:: committed > seen || (has_joined && !is_member) ->
		upto = committed;
		/* Members are read after the rows. */
		finds_member = has_joined;
		atomic {
			row = seen;
			do
			:: row < upto -> row++; if :: is_member -> ready!row :: else fi
			:: else -> break
			od;
			seen = upto;
			if
			:: finds_member && !is_member ->
				is_member = true;
				position = AFTER;
#ifndef NEW_IS_LEVEL
				is_behind = position < seen
#endif
			:: else
			fi;
			row = 0
		}
	od
}

active proctype deliver()
{
	byte row;
	do
	:: atomic { ready?row ->
#ifdef NO_POSITION
		if :: !is_behind ->
#else
		if :: !is_behind && position < row ->
#endif
			if
			:: nfull(mailbox) -> mailbox!row; position = row
			:: full(mailbox) -> is_behind = true; position = row - 1
			fi
		:: else
		fi;
		row = 0 }
	od
}

/* The mailbox drops what nobody reads. */
active proctype expiry()
{
	byte row;
	atomic { nempty(mailbox) -> mailbox?row; is_behind = true; position = row - 1; row = 0 }
}

active proctype receiver()
{
	byte row, last;
	do
	:: atomic { mailbox?row -> assert(row == received + 1); received = row; row = 0 }
	:: is_behind && empty(mailbox) ->
		row = position;
		last = committed;
		atomic {
			if
			:: is_behind && row == position ->
				do
				:: position < last && nfull(mailbox) -> position++; mailbox!position
				:: position < last && full(mailbox) -> break
				:: position == last ->
#ifdef LEVEL_BLIND
					is_behind = false;
#else
					is_behind = seen > last;
#endif
					break
				od
			:: else
			fi;
			row = 0; last = 0
		}
	od
}

/* Each message comes, once and in order. */
ltl comes { <> (received == ROWS) }
