/*-------------------------------------------------------------------------
 *
 * relay_destination.c
 *		What this relay's destination is, and which others want relays.
 *
 * Its row is read when the relay starts, and when somebody has changed destinations.
 * Settings of its own are put above those of the configuration file once, before
 * anything is configured: a relay whose settings change ends in order, and the next one
 * begins with the new ones; so do all of a database whose events get another source.
 * One whose destination is gone ends as well, and the next one gives the slot back.
 * What else may change holds from then on: whether it is paused, and what it takes,
 * which begins with the next window (store_filter.c).
 *
 * A setting that was checked when it was written may be bad all the same: a dump may
 * have brought it to another server.  Then this destination is not configured.
 *
 * The relay of "default" asks for those of the other destinations.
 *
 * Memory: what is known lives as long as the process.  Errors: those of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "guc.h"
#include "lib/text.h"
#include "relay/relay_internal.h"

/*
 * Whoever changes destinations wakes us at commit, unless he dies before: so look
 * again after this, and sooner if a relay of another one found no slot.
 */
#define LOOK_AGAIN_MS	60000
#define ASK_AGAIN_MS	10000

/* Nothing is known yet but the number. */
void
relay_destination_init(Relay *relay, int id)
{
	relay->destination.id = id;
	relay->destination.look_at = relay->now;
}

/* Put the destination's settings above those of the configuration file. */
static bool
apply_settings(Relay *relay)
{
	RelayDestination *destination = &relay->destination;
	List	   *settings;
	ListCell   *lc;

	if (!relay_store_ok(relay, store_read_settings(&settings)))
		return false;
	foreach(lc, settings)
	{
		const StoreSetting *setting = lfirst(lc);
		const char *name = strchr(setting->name, '.') ? setting->name :
		psprintf("outbox.%s", setting->name);

		/* what is wrong is logged */
		if (set_config_option(name, setting->value, PGC_SUSET,
							  PGC_S_DATABASE_USER, GUC_ACTION_SET, true,
							  WARNING, false) == 0)
			snprintf(destination->problem, sizeof(destination->problem),
					 "the setting \"%s\" of the destination is not valid; the server log says why",
					 setting->name);
	}
	return true;
}

/*
 * Take in what the row says.  False: the destination is gone, or has other settings
 * or another source now, and the relay has to end.
 */
static bool
follow_row(Relay *relay, const StoreDestination *row)
{
	RelayDestination *destination = &relay->destination;

	if (!row->name)
		return false;
	if (!destination->settings)
	{
		destination->name = MemoryContextStrdup(relay->context, row->name);
		destination->settings = MemoryContextStrdup(relay->context,
													row->settings);
		destination->source = MemoryContextStrdup(relay->context, row->source);
	}
	destination->paused = row->paused;
	return strcmp(destination->settings, row->settings) == 0 &&
		strcmp(destination->source, row->source) == 0;
}

/* Have a relay for each other destination; if a slot is missing, ask again. */
static void
ask_for_others(Relay *relay)
{
	RelayDestination *destination = &relay->destination;
	List	   *others;
	ListCell   *lc;

	if (destination->id != 0)
		return;
	if (!relay_store_ok(relay, store_list_others(&others)))
	{
		destination->look_at = relay->now + ASK_AGAIN_MS;
		return;
	}
	foreach(lc, others)
	{
		const StoreOther *other = lfirst(lc);

		if (!shmem_relay_ask_for(other->id, other->name))
			destination->look_at = relay->now + ASK_AGAIN_MS;
	}
}

/*
 * Read what the destination is, when the relay starts.  False if the store failed, or
 * if the relay has to end.
 */
bool
relay_begin_destination(Relay *relay)
{
	RelayDestination *destination = &relay->destination;
	StoreDestination row;

	if (!relay_store_ok(relay, store_read_destination(&row)))
		return false;
	if (!follow_row(relay, &row))
	{
		destination->ends = true;
		return false;
	}
	shmem_relay_found_destination(destination->name);
	if (!destination->applied && !apply_settings(relay))
		return false;
	destination->applied = true;
	destination->changed = false;
	destination->look_at = relay->now + LOOK_AGAIN_MS;
	ask_for_others(relay);
	return relay_store_ok(relay, store_ensure_position()) &&
		relay_store_ok(relay, store_read_filter());
}

/* Somebody has changed destinations, or may have. */
void
relay_destinations_changed(Relay *relay)
{
	relay->destination.changed = true;
}

/* Look at what has been changed. */
void
relay_follow_destination(Relay *relay)
{
	RelayDestination *destination = &relay->destination;
	StoreDestination row;

	if (relay->now >= destination->look_at)
		destination->changed = true;
	if (!destination->changed ||
		!relay_store_ok(relay, store_read_destination(&row)))
		return;
	if (!follow_row(relay, &row))
	{
		destination->ends = true;
		return;
	}
	if (!relay_store_ok(relay, store_read_filter()))
		return;
	destination->changed = false;
	destination->look_at = relay->now + LOOK_AGAIN_MS;
	relay->reader.look = true;
	ask_for_others(relay);
}

/* When there is something to look at. */
int64
relay_destination_time(const Relay *relay)
{
	if (relay->destination.changed)
		return relay->now;
	return relay->destination.look_at;
}

/* May anything be sent, as far as people say? */
bool
relay_is_enabled(const Relay *relay)
{
	return guc_enabled && !relay->destination.paused;
}

/* Has the relay to end, since its destination is another one or gone? */
bool
relay_has_to_end(const Relay *relay)
{
	return relay->destination.ends;
}

/* The destination's name; NULL: it is not known yet. */
const char *
relay_destination_name(const Relay *relay)
{
	return relay->destination.name;
}
