/*-------------------------------------------------------------------------
 *
 * broker_settings.h
 *		The settings that modules with a connection of their own have alike.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_SETTINGS_H
#define OUTBOX_BROKER_SETTINGS_H

#include "utils/guc.h"

#include "common/address.h"
#include "common/file_watch.h"
#include "common/tls.h"
#include "outbox_publisher.h"

/* Take a URL apart: the problem, or NULL; *has_user is as in address_parse(). */
typedef const char *(*BrokerUrlParser) (const char *url, Address *address,
										bool *has_user);

/* What one module's settings have of their own. */
typedef struct BrokerKind
{
	const char *prefix;			/* the module's name */
	const char *url_description;
	char	  **own_file;		/* path of another file that it reads; or NULL */
	BrokerUrlParser parse_url;
	GucStringCheckHook check_url;	/* calls broker_check_url() */
	int			most_messages;	/* the largest max_messages */

	/*
	 * What a module reads is a struct of this size, which begins with a
	 * BrokerSettings.  Its own part is read last, in the context of the
	 * settings: false, and the reason, if nothing can be sent with it.
	 */
	Size		size;
	bool		(*read_own) (const OutboxPublisherState *state, void *settings,
							 const char **reason);
} BrokerKind;

/* The variables of the settings. */
typedef struct BrokerVariables
{
	char	   *url;
	char	   *user;
	char	   *password_file;
	char	   *tls_ca_file;
	char	   *tls_cert_file;
	char	   *tls_key_file;
	int			content_mode;
	int			max_messages;
} BrokerVariables;

/* What was read of them. */
typedef struct BrokerSettings
{
	MemoryContext context;		/* all of it is in here */
	Address		address;
	SSL_CTX    *tls;			/* NULL: without */
	const char *user;			/* NULL: none */
	char	   *password;		/* NULL: none */
	bool		structured;		/* an envelope */
	int			max_messages;	/* unanswered at a time */
} BrokerSettings;

extern bool broker_check_url(const BrokerKind *kind, const char *url);
extern void broker_define_string(const BrokerKind *kind, const char *name,
								 const char *description, char **variable,
								 const char *value, GucStringCheckHook check);
extern void broker_settings_define(const BrokerKind *kind,
								   BrokerVariables *variables);
extern void *broker_settings_read(OutboxPublisherState *state,
								  const BrokerKind *kind,
								  const BrokerVariables *variables,
								  FileWatch *watch, const char **reason);
extern void broker_settings_free(BrokerSettings *settings);

#endif							/* OUTBOX_BROKER_SETTINGS_H */
