/*-------------------------------------------------------------------------
 *
 * restore_note.c
 *		How many events a transaction restores, for outbox_check().
 *
 * Once its transaction is stamped on it, a restored event looks like any other;
 * yet whoever has restored a dump, or copied a database, wants to know that
 * events came along which will be sent from here.  So they are counted in this
 * backend as they come, which costs a restore nothing, and just before the commit,
 * or PREPARE TRANSACTION, a row of outbox_restore says how many.  It is committed,
 * replicated and survives a crash with the events themselves, and nobody waits
 * for another one's row.
 *
 * What a subtransaction counted is its own until it ends: it goes to the
 * transaction around it, or is forgotten.  A row that ON CONFLICT DO NOTHING drops
 * behind our trigger is counted as well.
 *
 * Memory: of the transaction.  Locks: one on outbox_restore that keeps nobody from
 * writing to it.  Errors: the transaction fails, as by any other write.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "api/restore_note.h"
#include "store/store.h"

/* What a subtransaction has restored; the current one's, if any, comes first. */
typedef struct Restored
{
	SubTransactionId subxact;
	int64		nevents;
	struct Restored *outer;
} Restored;

static Restored *restored = NULL;
static Oid	schema;				/* of the extension */

static void
write_note(void)
{
	int64		nevents = 0;

	for (Restored *r = restored; r; r = r->outer)
		nevents += r->nevents;
	if (nevents > 0)
		store_note_restore(schema, nevents);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		write_note();
	else
		restored = NULL;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subxact,
				 SubTransactionId parent, void *arg)
{
	if (restored == NULL || restored->subxact != subxact)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		restored = restored->outer;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		restored->subxact = parent;
		if (restored->outer && restored->outer->subxact == parent)
		{
			restored->outer->nevents += restored->nevents;
			restored = restored->outer;
		}
	}
}

/* An event is restored into this table. */
void
restore_note_count(Relation table)
{
	static bool registered = false;
	Restored   *r = restored;

	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
		registered = true;
	}
	if (r == NULL || r->subxact != GetCurrentSubTransactionId())
	{
		r = MemoryContextAlloc(TopTransactionContext, sizeof(Restored));
		r->subxact = GetCurrentSubTransactionId();
		r->nevents = 0;
		r->outer = restored;
		restored = r;
		schema = RelationGetNamespace(table);
	}
	r->nevents++;
}
