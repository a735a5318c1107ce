/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings of outbox_rabbitmq.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RABBITMQ_SETTINGS_H
#define OUTBOX_RABBITMQ_SETTINGS_H

#include <openssl/ssl.h>

#include "outbox_publisher.h"

#include "common/address.h"
#include "common/file_watch.h"

/* What the settings are at a time, files included. */
typedef struct RabbitSettings
{
	MemoryContext context;		/* holds this and what it points to */
	Address		address;		/* its path is the virtual host */
	const char *url;
	const char *user;
	const char *password;
	const char *exchange;		/* "" is the one that has no name */
	const char *routing_key;	/* a template */
	const char *source;			/* of CloudEvents */
	bool		structured;		/* content mode; else binary */
	bool		mandatory;
	bool		persistent;
	bool		reject_unroutable;
	int			heartbeat;		/* seconds; 0: none */
	Size		max_message_size;	/* in bytes */
	int			max_messages;
	const char *tls_ca_file;
	const char *tls_cert_file;
	const char *tls_key_file;
	SSL_CTX    *tls;			/* NULL: without */
} RabbitSettings;

extern void settings_define(void);
extern RabbitSettings *settings_read(OutboxPublisherState *state,
									 FileWatch *watch, const char **reason);
extern bool settings_equal(const RabbitSettings *a, const RabbitSettings *b);
extern void settings_free(RabbitSettings *settings);

#endif							/* OUTBOX_RABBITMQ_SETTINGS_H */
