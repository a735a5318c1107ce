/*-------------------------------------------------------------------------
 *
 * relay_floor.c
 *		Up to where a key has no rows any more.
 *
 * A key whose events have come and gone by the table leaves entries of settled
 * rows in its indexes, which stay while somebody holds an old snapshot.  Who has
 * passed many of them notes where the first unsettled row can be: the key's floor,
 * from which the next one begins.  Whoever gives an event a row, or finds one, says
 * so before the key is read again, which lowers the floor.
 *
 * Floors are a cache of a fixed size.  A key without one is read from its
 * beginning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/relay_queue.h"

/* So few entries are not worth a place. */
#define WORTH_NOTING	32

static KeyFloor *
place_of(const KeyFloors *floors, KeyId id)
{
	return unconstify(KeyFloor *, &floors->places[id.a % NFLOORS]);
}

/* All unsettled rows of the key have larger ids than this one. */
int64
floors_find(const KeyFloors *floors, KeyId id)
{
	const KeyFloor *floor = place_of(floors, id);

	return floor->id.a == id.a && floor->id.b == id.b ? floor->after : 0;
}

/*
 * A read of the key's rows behind "after" has passed "ndead" entries, and found
 * none that is not settled before the id "first".
 */
void
floors_raise(KeyFloors *floors, KeyId id, int64 after, int64 first, int ndead)
{
	int64		known = floors_find(floors, id);

	/* what is between the two was not looked at */
	if (after > known || first - 1 <= known || ndead < WORTH_NOTING)
		return;
	*place_of(floors, id) = (KeyFloor)
	{
		id, first - 1
	};
}

/* The key has a row of this event, or will have. */
void
floors_lower(KeyFloors *floors, KeyId id, int64 event)
{
	if (floors_find(floors, id) >= event)
		place_of(floors, id)->after = event - 1;
}

/* Nothing is known. */
void
floors_forget(KeyFloors *floors)
{
	memset(floors, 0, sizeof(*floors));
}
