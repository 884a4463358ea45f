/* A full channel's mark in the sidecar: Mailboxes.take_changed, Engine.mark.  Two
 * loops of a process put messages into a mailbox and take them out; whoever has
 * changed whether it is full tells the senders.
 *
 * Mutant: -DNO_LOCK
 */
#define CAPACITY 2

byte held;
bool is_full, is_changed, is_marked;
bool is_locked;
byte running = 2;

#ifdef NO_LOCK
#define LOCK skip
#define UNLOCK skip
#else
#define LOCK atomic { !is_locked; is_locked = true }
#define UNLOCK is_locked = false
#endif

active [2] proctype loop()
{
	byte steps = 3;
	bool mark;
	do
	:: steps > 0 ->
		steps--;
		/* Under the lock of the mailboxes. */
		if
		:: atomic { held < CAPACITY -> held++ }
			atomic { if
			:: held == CAPACITY && !is_full -> is_full = true; is_changed = true
			:: else fi }
		:: atomic { held > 0 -> held-- }
			atomic { if
			:: held < CAPACITY && is_full -> is_full = false; is_changed = true
			:: else fi }
		fi;
		LOCK;
		if
		:: atomic { is_changed -> is_changed = false };
			mark = is_full;
			is_marked = mark
		:: else
		fi;
		UNLOCK
	:: else -> break
	od;
	running--
}

/* In the end senders know what is so. */
ltl told { []((running == 0) -> (is_marked == is_full)) }
