/*-------------------------------------------------------------------------
 *
 * relay_session.c
 *		The relay's session: connected, and pinned.
 *
 * To connect may have to wait for somebody's lock.  SIGTERM cancels that, and ends the
 * process without a word in the log: there is nothing yet to be ended in order.
 *
 * Nothing that somebody sets for the database, for all roles or in a connection string
 * changes how the relay's statements run, or who the relay is.
 *
 * No locks.  Errors: those of connecting, and of a setting that does not take its value,
 * which end the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "relay/relay.h"

/* SIGTERM before relay_connect() is done. */
void
relay_handle_early_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/* Connect to a database, or end. */
void
relay_connect(Oid dboid)
{
	PG_TRY();
	{
		BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	}
	PG_CATCH();
	{
		if (ShutdownRequestPending && geterrcode() == ERRCODE_QUERY_CANCELED)
			proc_exit(1);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Settings of this session, whatever database and role say. */
static const struct
{
	const char *name;
	const char *value;
}			pinned[] = {
	{"search_path", ""},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"synchronous_commit", "off"},	/* see relay_checkpoint.c */
	{"statement_timeout", "0"},
	/* meanwhile nobody reads the answers that come in */
	{"lock_timeout", "100ms"},
	{"idle_in_transaction_session_timeout", "0"},
	{"session_replication_role", "origin"},
	{"row_security", "off"},
	{"jit", "off"},
	{"plan_cache_mode", "force_generic_plan"},
	/* every plan must be an index scan; see store_plan.c for which one */
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_hashjoin", "off"},
	{"enable_mergejoin", "off"},
	{"enable_material", "off"},
	{"enable_memoize", "off"}
};

/*
 * Be the bootstrap superuser, as any background worker without a user is.  The
 * settings "session_authorization" and "role" may say otherwise.  They are
 * overruled without being set, which would look up roles in a transaction.
 */
static void
pin_user(void)
{
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
	SetCurrentRoleId(InvalidOid, false);
}

static void
pin_settings(void)
{
	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i].name, pinned[i].value, PGC_SUSET,
						PGC_S_OVERRIDE);
	/* 17 and later */
	if (GetConfigOption("transaction_timeout", true, false))
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
}

/* As described at the top; once, when the process is connected. */
void
relay_pin_session(void)
{
	pin_user();
	pin_settings();
}
