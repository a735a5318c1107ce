/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What the launcher, the relays and the backends share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SHMEM_H
#define OUTBOX_SHMEM_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "lib/text.h"

typedef enum RelayStatus
{
	RELAY_STARTING,
	RELAY_IDLE,
	RELAY_RELAYING,
	RELAY_ENDPOINT_DOWN,
	RELAY_STOPPED,
	RELAY_DISABLED,
	RELAY_PAUSING,				/* as soon as all is answered: */
	RELAY_PAUSED
} RelayStatus;

/* Of outbox.publisher, which may be a path, so much is told. */
#define PUBLISHER_SIZE	256

/* Of the source of events, so much. */
#define SOURCE_SIZE		256

/* Three answers to "is it well?": not known, yes, or no with the reason. */
typedef struct RelayFinding
{
	bool		known;
	char		problem[OUTBOX_ERROR_SIZE]; /* empty: well */
} RelayFinding;

/* The longest topic, and its NUL. */
#define TOPIC_SIZE		256

/* Of so many topics that are down or held does a relay tell. */
#define MAX_TOPICS		64

/* A topic that is down or held. */
typedef struct TopicReport
{
	char		topic[TOPIC_SIZE];
	bool		held;			/* as the destination asked; else it is down */
	TimestampTz since;			/* for all the time that it is either */
	TimestampTz next_try;		/* 0: now, or it is being tried */
	int			in_flight;		/* requests */
	int64		published;		/* since the relay has known the topic */
	int			last_status;	/* 0: there was no answer */
	char		last_error[OUTBOX_ERROR_SIZE];
} TopicReport;

/* What a relay tells about topics: written by it, copied by readers. */
typedef struct TopicsReport
{
	int			ndown;
	int			nheld;
	int			n;				/* of the array, those that have been so
								 * longest */
	TopicReport topics[MAX_TOPICS];
} TopicsReport;

/* What a relay tells about itself: written by it, copied by readers. */
typedef struct RelayReport
{
	RelayStatus status;
	TimestampTz since;			/* of this status */
	TimestampTz started_at;		/* 0: never */
	int			in_flight;
	int			topics_down;
	int			topics_held;
	char		last_error[OUTBOX_ERROR_SIZE];
	TimestampTz last_error_at;	/* 0: none */
	char		publisher[PUBLISHER_SIZE];	/* empty: not read yet, as ... */
	char		source[SOURCE_SIZE];	/* of events */
	RelayFinding configured;	/* can it send with its settings? */
	RelayFinding endpoint;		/* the destination */
	RelayFinding pruning;		/* could all be deleted that was due? */
	TimestampTz next_prune;		/* 0: by another relay */
	RelayFinding files;			/* can changed files be used? */
	RelayFinding clock;			/* is it the destination's? */
} RelayReport;

/* One row of shmem_list_relays(). */
typedef struct RelayInfo
{
	Oid			dboid;
	int			destination;	/* its id in that database; 0: default */
	char		name[NAMEDATALEN];	/* of the destination */
	pid_t		pid;			/* 0: no process */
	RelayReport report;
} RelayInfo;

/* A relay that has no process: see shmem_next_relay_to_start(). */
typedef struct RelayToStart
{
	int			slot;			/* its number */
	Oid			dboid;
	int			destination;
	char		name[NAMEDATALEN];	/* of the destination */
	bool		orderly;		/* the last process meant to end */
} RelayToStart;

/* What woke a relay; see shmem_relay_take_requests(). */
#define RELAY_REQUEST_SERVE		0x01	/* somebody asked for something */
#define RELAY_REQUEST_RECHECK	0x02	/* somebody else wrote rows of ours */
#define RELAY_REQUEST_DESTINATIONS	0x04	/* destinations were changed */

/* shmem.c: start-up */
extern void shmem_init(void);
extern bool shmem_attached(void);

/* shmem.c: commands on databases */
extern void shmem_launcher_ask_rescan(void);
extern bool shmem_hold_relays(Oid dboid);
extern bool shmem_has_relay(Oid dboid);
extern void shmem_release_relays(Oid dboid);

/* shmem.c: backends and views */
extern void shmem_count_duplicate(void);
extern List *shmem_list_relays(void);
extern void shmem_copy_topics(Oid dboid, int destination,
							  TopicsReport *report);

/* shmem_launcher.c */
extern void shmem_launcher_attach(void);
extern bool shmem_launcher_take_rescan(void);
extern bool shmem_next_relay_to_start(int *cursor, RelayToStart *relay);
extern bool shmem_look_into_database(Oid dboid);
extern bool shmem_database_is_refused(Oid dboid);
extern int	shmem_databases_looked_into(void);
extern bool shmem_relay_is_wanted(Oid dboid, int destination);
extern bool shmem_remove_dropped(List *databases);
extern bool shmem_give_up_database(Oid dboid);
extern void shmem_note_start_failure(Oid dboid, int destination,
									 const char *error);

/* shmem_relay.c */
extern bool shmem_relay_attach(Oid dboid, int destination);
extern void shmem_relay_found_destination(const char *name);
extern bool shmem_relay_ask_for(int destination, const char *name);
extern void shmem_relay_report(const RelayReport *report);
extern void shmem_relay_report_topics(const TopicsReport *report);
extern void shmem_relay_listen(bool on);
extern int	shmem_relay_take_requests(void);
extern int64 shmem_relay_take_duplicates(void);
extern void shmem_relay_ends_in_order(void);
extern bool shmem_relay_give_slot_back(void);

/* shmem_wake.c */
extern void shmem_wake_init(void);
extern void shmem_wake_relays_at_commit(int requests);

#endif							/* OUTBOX_SHMEM_H */
