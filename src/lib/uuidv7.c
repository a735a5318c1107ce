/*-------------------------------------------------------------------------
 *
 * uuidv7.c
 *		Ids for events: UUID version 7 (RFC 9562).
 *
 * 48 bits of milliseconds, 12 bits of the fraction of the millisecond
 * (section 6.2, method 3), 62 random bits.  Ids made one after the other are
 * neighbours in the unique index, which keeps inserts cheap.
 *
 * Random bits come from the strong source in blocks, because a system call
 * for every event would cost a fifth of its insert.  A backend never forks,
 * so that no two processes have the same block.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "lib/uuidv7.h"

#define RANDOM_BYTES	8		/* of each id */

static unsigned char pool[RANDOM_BYTES * 128];
static int	pool_used = sizeof(pool);

/* Make an id.  Throws if the strong random source fails. */
void
uuidv7_generate(pg_uuid_t *uuid)
{
	uint64		us = (uint64) (GetCurrentTimestamp() +
							   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							   USECS_PER_DAY);
	uint64		ms = us / 1000;
	uint32		fraction = (us % 1000) * 4096 / 1000;

	if (pool_used == sizeof(pool))
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		pool_used = 0;
	}

	/* big-endian, so that ids sort as they were made */
	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (40 - 8 * i));
	uuid->data[6] = 0x70 | (fraction >> 8);
	uuid->data[7] = fraction & 0xff;
	memcpy(&uuid->data[8], &pool[pool_used], RANDOM_BYTES);
	uuid->data[8] = 0x80 | (uuid->data[8] & 0x3f);
	pool_used += RANDOM_BYTES;
}
