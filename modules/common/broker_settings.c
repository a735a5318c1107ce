/*-------------------------------------------------------------------------
 *
 * broker_settings.c
 *		The settings that modules with a connection of their own have alike.
 *
 * Where the broker is, whom to trust there, and who we are.  They are read when
 * the relay says so or a file of theirs has changed, into a context that lives until they are read again; so what
 * is in use does not change in between.
 *
 * Errors: what is missing or wrong, in a file too, is a reason not to be
 * configured; only out of memory and out of open files is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "common/broker_settings.h"
#include "common/module.h"

/* For the check hook of the URL, which may be empty. */
bool
broker_check_url(const BrokerKind *kind, const char *url)
{
	Address		address;
	bool		has_user = false;
	bool		ok = url[0] == '\0' ||
	module_accept_unless(kind->parse_url(url, &address, &has_user));

	if (has_user)
		GUC_check_errhint("Set %s.user and %s.password_file.", kind->prefix,
						  kind->prefix);
	return ok;
}

/* Define a setting of a module; what is given lasts, but for the name. */
void
broker_define_string(const BrokerKind *kind, const char *name,
					 const char *description, char **variable,
					 const char *value, GucStringCheckHook check)
{
	DefineCustomStringVariable(psprintf("%s.%s", kind->prefix, name),
							   description, NULL, variable, value, PGC_SUSET, 0,
							   check, NULL, NULL);
}

/* Define those that all have. */
void
broker_settings_define(const BrokerKind *kind, BrokerVariables *variables)
{
	broker_define_string(kind, "url", kind->url_description, &variables->url, "",
						 kind->check_url);
	broker_define_string(kind, "user", "The user to log in as; empty means none.",
						 &variables->user, "", NULL);
	broker_define_string(kind, "password_file",
						 "File with the user's password; empty means none.",
						 &variables->password_file, "", NULL);
	broker_define_string(kind, "tls_ca_file",
						 "File with the certificate authorities to trust; empty means that of outbox.tls_ca_file.",
						 &variables->tls_ca_file, "", NULL);
	broker_define_string(kind, "tls_cert_file", "File with our certificate.",
						 &variables->tls_cert_file, "", NULL);
	broker_define_string(kind, "tls_key_file",
						 "File with our certificate's key.",
						 &variables->tls_key_file, "", NULL);
	DefineCustomEnumVariable(psprintf("%s.content_mode", kind->prefix),
							 "Whether an event's attributes are beside the payload, or in an envelope with it.",
							 NULL, &variables->content_mode, MODULE_BINARY,
							 module_content_modes, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(psprintf("%s.max_messages", kind->prefix),
							"How many messages may be unacknowledged at a time.",
							NULL, &variables->max_messages, 1000, 1,
							kind->most_messages, PGC_SUSET, 0, NULL, NULL, NULL);
}

/* MemoryContextCallback: what is not freed with the context. */
static void
release_settings(void *arg)
{
	BrokerSettings *settings = arg;

	SSL_CTX_free(settings->tls);
	if (settings->password)
		explicit_bzero(settings->password, strlen(settings->password));
}

/* Note which files are about to be read. */
static void
watch_files(OutboxPublisherState *state, const BrokerKind *kind,
			const BrokerVariables *variables, FileWatch *watch)
{
	const char *const paths[] = {
		variables->password_file,
		module_ca_file(variables->tls_ca_file, state),
		variables->tls_cert_file,
		variables->tls_key_file,
		kind->own_file ? *kind->own_file : NULL
	};

	file_watch_begin(watch, state, paths, lengthof(paths));
}

/* Read whom to trust; false and the reason if that cannot be told. */
static bool
read_tls(const OutboxPublisherState *state, const BrokerVariables *variables,
		 BrokerSettings *settings, const char **reason)
{
	TlsFiles	files = {
		.ca_file = module_ca_file(variables->tls_ca_file, state),
		.cert_file = variables->tls_cert_file,
		.key_file = variables->tls_key_file
	};

	settings->tls = tls_context_create(&files, reason);
	return settings->tls != NULL;
}

/* Read those that all have, in the current memory context. */
static bool
read_all(const OutboxPublisherState *state, const BrokerKind *kind,
		 const BrokerVariables *variables, BrokerSettings *settings,
		 const char **reason)
{
	const char *problem;
	const char *password = NULL;
	bool		has_user = false;

	if (variables->url[0] == '\0')
	{
		*reason = psprintf("%s.url is not set", kind->prefix);
		return false;
	}
	problem = kind->parse_url(variables->url, &settings->address, &has_user);
	if (problem != NULL)
	{
		*reason = psprintf("%s.url is invalid: %s", kind->prefix, problem);
		return false;
	}
	settings->structured = variables->content_mode == MODULE_STRUCTURED;
	settings->max_messages = variables->max_messages;
	if (variables->user[0] != '\0')
		settings->user = pstrdup(variables->user);
	if (variables->password_file[0] != '\0' &&
		!module_read_secret(variables->password_file, &password, reason))
		return false;
	settings->password = unconstify(char *, password);
	return !settings->address.tls ||
		read_tls(state, variables, settings, reason);
}

/*
 * The settings as they are now, and the files that they name, which are watched from
 * now on: what a module of this kind reads, to be freed by broker_settings_free().  NULL, and the reason in the current memory context, if
 * nothing can be sent with them.
 */
void *
broker_settings_read(OutboxPublisherState *state, const BrokerKind *kind,
					 const BrokerVariables *variables, FileWatch *watch,
					 const char **reason)
{
	MemoryContext context = AllocSetContextCreate(state->context,
												  "settings of a broker",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	BrokerSettings *settings = palloc0(kind->size);
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	bool		ok;

	settings->context = context;
	callback->func = release_settings;
	callback->arg = settings;
	MemoryContextRegisterResetCallback(context, callback);
	watch_files(state, kind, variables, watch);
	ok = read_all(state, kind, variables, settings, reason) &&
		kind->read_own(state, settings, reason);
	MemoryContextSwitchTo(caller);
	if (ok)
		return settings;
	*reason = pstrdup(*reason);
	broker_settings_free(settings);
	return NULL;
}

/* Forget settings that nobody uses any more; NULL is allowed. */
void
broker_settings_free(BrokerSettings *settings)
{
	if (settings != NULL)
		MemoryContextDelete(settings->context);
}
