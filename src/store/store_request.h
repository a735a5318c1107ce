/*-------------------------------------------------------------------------
 *
 * store_request.h
 *		What the files share that serve requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STORE_REQUEST_H
#define OUTBOX_STORE_REQUEST_H

#include "store/store_internal.h"

/* So many events are looked at in one go of a replay. */
#define STORE_REPLAY_BATCH	1000

/*
 * Has "e" been read from the window that is being read, or before?  $2 lo, $3 hi
 * and $4 cursor of that, $5 what it is still to read first.
 */
#define READ \
	"((pg_visible_in_snapshot(e.xid, $2)" \
	"   OR (e.id <= $4 AND pg_visible_in_snapshot(e.xid, $3)))" \
	"  AND e.id <> ALL ($5))"

typedef struct Request
{
	Datum		id;
	char	   *action;
	Datum		event;
	Datum		topic;			/* if not all_topics; of a replay, a pattern */
	bool		all_topics;
	Datum		requested_by;
	Datum		requested_at;
	Datum		since;			/* of a replay; 0: all */
	Datum		newest;			/* of a replay, the last one that is meant */
} Request;

typedef struct ServeArgs
{
	MemoryContext context;		/* of the result */
	StoreRequestCursor *cursor;
	const StoreWindow *window;
	bool		(*in_memory) (int64 id, void *arg);
	void	   *arg;
	TimestampTz now;
	int			limit;
	List	  **served;
	List	  **replaying;
	bool	   *more;
} ServeArgs;

/* store_served.c */
extern StoreServed *store_make_served(int row, bool gone);
extern int	store_add_served(ServeArgs *args, bool gone);
extern void store_window_to_values(const StoreWindow *window, Datum *values);

/* store_replay.c */
extern bool store_serve_replay(ServeArgs *args, const Request *request);

#endif							/* OUTBOX_STORE_REQUEST_H */
