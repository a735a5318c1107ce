/*-------------------------------------------------------------------------
 *
 * log_limit.c
 *		How often the log may say the same.
 *
 * What goes wrong may do so a thousand times a second.  Whoever logs such a thing
 * asks here first, and says in words what it is: by these, things are told apart.
 * It is up to the caller to count what is not logged, or to say later how it is
 * then.
 *
 * A process remembers a fixed number of things.  While all of these are recent,
 * others are not to be logged either: so there is a limit to how much a process
 * logs in a minute, however many topics there are, say.
 *
 * Errors: nothing here throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "lib/clock.h"
#include "lib/log_limit.h"

#define MAX_THINGS		64

typedef struct LoggedThing
{
	uint64		hash;			/* of the words */
	int64		at;				/* when it was logged, or happened, last */
} LoggedThing;

static LoggedThing things[MAX_THINGS];
static int	nthings = 0;

/* Two of 64 bits that are alike would hide one line. */
static uint64
hash_of_thing(const char *what, const char *which)
{
	uint64		seed = hash_bytes_extended((const unsigned char *) what,
										   strlen(what), 0);

	return hash_bytes_extended((const unsigned char *) which, strlen(which),
							   seed);
}

/* The entry of a thing, or the one that can be given up for it; NULL: none can. */
static LoggedThing *
find_thing(uint64 hash, int64 now)
{
	LoggedThing *oldest = NULL;

	for (int i = 0; i < nthings; i++)
	{
		if (things[i].hash == hash)
			return &things[i];
		if (!oldest || things[i].at < oldest->at)
			oldest = &things[i];
	}
	if (nthings < MAX_THINGS)
	{
		oldest = &things[nthings++];
		oldest->at = now - LOG_PAUSE_MS;
	}
	return now - oldest->at < LOG_PAUSE_MS ? NULL : oldest;
}

/* May it be logged?  "renew": what is not logged counts as well. */
static bool
may_log(uint64 hash, bool renew)
{
	int64		now = clock_ms();
	LoggedThing *thing = find_thing(hash, now);
	bool		due = thing && now - thing->at >= LOG_PAUSE_MS;

	if (!thing)
		return false;
	thing->hash = hash;
	if (due || renew)
		thing->at = now;
	return due;
}

/*
 * Is it to be logged now?  So it is if it was not in the last minute.  Things differ in
 * "what" has happened or to "which".
 */
bool
log_is_due(const char *what, const char *which)
{
	return may_log(hash_of_thing(what, which), false);
}

/*
 * The same if it did not even happen in the last minute.  This has to be called
 * whenever it does.
 */
bool
log_is_news(const char *what, const char *which)
{
	return may_log(hash_of_thing(what, which), true);
}
