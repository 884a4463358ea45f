/* The wake-up protocol of csrc/wakeup.h, on a plain channel: two senders, two
 * readers that claim rows from one table, and death at every step.
 *
 * -DKILL_SENDER    a sender may die, between commit and wake above all
 * -DFLOOR          readers look once more when the fallback interval is over
 * Mutants, each of which breaks one rule:
 * -DWAKE_BEFORE_COMMIT  -DLOOK_BEFORE_ARM  -DLOOK_BEFORE_DRAIN  -DWAKE_ONE
 * -DCLAIM_BY_SELECT
 */
#define SENDERS  2
#define READERS  2
#define MESSAGES 3 /* two of the first sender, one of the other */

bool committed[MESSAGES]; /* the row is in the table */
byte delivered[MESSAGES]; /* how often it reached somebody */
bool armed[READERS];      /* the FIFO is there, and watched: R1 */
bool byte_in[READERS];    /* it is readable; a second byte changes nothing */
bool dead[READERS];
bool floored[READERS];    /* has looked after the fallback interval */
bool sender_died;
byte reader_deaths = 1;   /* how many readers may die */
byte finished;            /* senders that are through, or dead */

/* What SQLite gives: a row is claimed by one DELETE ... RETURNING. */
inline claim(m, got)
{
#ifdef CLAIM_BY_SELECT
	got = committed[m];
	committed[m] = false;
#else
	atomic { got = committed[m]; committed[m] = false }
#endif
}

/* W3: into the FIFO of each reader; one that is not there is nobody. */
inline wake()
{
	r = 0;
	do
	:: r < READERS ->
		if
		:: armed[r] && !dead[r] ->
			byte_in[r] = true;
#ifdef WAKE_ONE
			break
#endif
		:: else
		fi;
		r++
	:: else -> break
	od
}

#ifdef KILL_SENDER
#define MAY_DIE_SENDING :: !sender_died -> sender_died = true; goto end
#else
#define MAY_DIE_SENDING
#endif

active [SENDERS] proctype sender()
{
	byte m = _pid * 2, r, last = (_pid == 0 -> 2 : MESSAGES);
	do
	:: m < last ->
#ifdef WAKE_BEFORE_COMMIT
		wake();
		committed[m] = true;
#else
		committed[m] = true; /* W2 */
		if
		MAY_DIE_SENDING
		:: wake()            /* W3 */
		fi;
#endif
		m++
	:: else -> break
	od;
end:	finished++
}

inline look()
{
	m = 0;
	do
	:: m < MESSAGES ->
		claim(m, got);
		if
		:: got && reader_deaths > 0 -> /* killed with the claim in hand: that row is lost */
			reader_deaths--; dead[me] = true; goto gone
		:: got ->
			delivered[m]++;
			assert(delivered[m] == 1)
		:: else
		fi;
		m++
	:: else -> break
	od
}

active [READERS] proctype reader()
{
	byte me = _pid - SENDERS, m;
	bool got;
#ifdef LOOK_BEFORE_ARM
	look();
	armed[me] = true;
	goto asleep;
#else
	armed[me] = true; /* R1 */
#endif
again:
#ifdef LOOK_BEFORE_DRAIN
	look();
	byte_in[me] = false;
#else
	byte_in[me] = false; /* R2 */
	if
	:: reader_deaths > 0 -> reader_deaths--; dead[me] = true; goto gone
	:: true
	fi;
	look();              /* R3 */
#endif
asleep:
end:	if
	:: byte_in[me] -> goto again /* R4 */
#ifdef FLOOR
	:: timeout && !floored[me] -> floored[me] = true; goto again
#endif
	fi;
gone:	skip
}

#define AT_REST(r) (dead[r] || floored[r])

/* Nothing can move any more: no row may be left while somebody lives to read it. */
active proctype judge()
{
	byte m;
end:	if
#ifdef FLOOR
	:: timeout && finished == SENDERS && AT_REST(0) && AT_REST(1)
#else
	:: timeout && finished == SENDERS
#endif
	fi;
	if
	:: !dead[0] || !dead[1] ->
		for (m : 0 .. MESSAGES - 1) { assert(!committed[m]) }
	:: else
	fi
}
