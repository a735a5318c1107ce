/*-------------------------------------------------------------------------
 *
 * relay.h
 *		The relay, from the tables to the publisher and back, as its process
 *		sees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_H
#define OUTBOX_RELAY_H

#include "outbox_publisher.h"

typedef struct Relay Relay;

/* relay_main.c: the process, for the launcher */
extern PGDLLEXPORT void outbox_relay_main(Datum arg);

/* relay_death.c */
extern void relay_death_begin(Oid dboid, int destination);
extern bool relay_death_pending(void);
extern void relay_death_done(void);
extern void relay_death_none(void);

/* relay_session.c */
extern void relay_handle_early_sigterm(SIGNAL_ARGS);
extern void relay_connect(Oid dboid);
extern void relay_pin_session(void);

/* relay_destination.c */
extern void relay_destinations_changed(Relay *relay);
extern bool relay_has_to_end(const Relay *relay);
extern const char *relay_destination_name(const Relay *relay);

/* relay_configure.c */
extern void relay_configure(Relay *relay);
extern bool relay_changes_publisher(const Relay *relay);

/* relay.c */
extern Relay *relay_create(const char *database, int destination);
extern void relay_idle(Relay *relay, const char *why);
extern bool relay_start(Relay *relay);
extern long relay_step(Relay *relay);
extern void relay_woken(Relay *relay);
extern void relay_ask_next(Relay *relay);
extern void relay_recheck(Relay *relay);
extern bool relay_sockets(Relay *relay,
						  void (*update) (const OutboxSocket *sockets, int n),
						  long *timeout_ms);
extern void relay_sockets_ready(Relay *relay, const OutboxSocket *ready,
								int n);
extern bool relay_settle_answered(Relay *relay);
extern bool relay_changes_scope(const Relay *relay);
extern bool relay_extension_is_gone(const Relay *relay);
extern bool relay_stop(Relay *relay);
extern void relay_forget(Relay *relay);

#endif							/* OUTBOX_RELAY_H */
