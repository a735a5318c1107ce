/*-------------------------------------------------------------------------
 *
 * destination.c
 *		Where events go: outbox_add_destination() and its relatives.
 *
 * A destination's settings name libraries that the server loads and files that it
 * reads.  So whoever adds, alters or drops one needs the rights of the extension's
 * owner, and each setting is checked as ALTER DATABASE ... SET would: by its own
 * check, and with the rights of who sets it.  These functions are not SECURITY DEFINER.
 * To pause, resume and replay is an operator's work, by GRANT EXECUTE, and these are.
 *
 * All of it takes effect when the transaction commits: then the relays are woken.
 *
 * Errors go to the caller.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "guc.h"
#include "lib/compat.h"
#include "lib/topic_pattern.h"
#include "server/server.h"
#include "server/shmem.h"
#include "store/store.h"

#define SETTING_PREFIX	"outbox."

PG_FUNCTION_INFO_V1(outbox_topic_matches);
PG_FUNCTION_INFO_V1(outbox_add_destination);
PG_FUNCTION_INFO_V1(outbox_alter_destination);
PG_FUNCTION_INFO_V1(outbox_drop_destination);
PG_FUNCTION_INFO_V1(outbox_pause);
PG_FUNCTION_INFO_V1(outbox_resume);
PG_FUNCTION_INFO_V1(outbox_replay);

/* Settings that concern all destinations of a database alike. */
static const char *const common_settings[] = {
	"cleaning_expire_interval", "cleaning_local_queue_expire_interval",
	"delete_batch_count", "enabled", "max_payload_size", "max_relays",
	"published_expire_time"
};

/* What is wanted in an array of patterns; "n" of them, none NULL. */
static char **
patterns_of_array(ArrayType *array, int *n)
{
	Datum	   *values;
	bool	   *nulls;
	char	  **patterns;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  n);
	patterns = palloc(sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("patterns of topics must not be null")));
		patterns[i] = TextDatumGetCString(values[i]);
	}
	return patterns;
}

Datum
outbox_topic_matches(PG_FUNCTION_ARGS)
{
	int			n;
	char	  **patterns = patterns_of_array(PG_GETARG_ARRAYTYPE_P(1), &n);

	PG_RETURN_BOOL(topic_patterns_match(patterns, n,
										text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

static void
check_pattern(const char *pattern)
{
	const char *problem = topic_pattern_problem(pattern);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid pattern of topics: \"%s\"", pattern),
				 errdetail("%s", problem),
				 errhint("Words are separated by dots; * is any one word, # any number of words, and ! in front takes away.")));
}

static void
check_topics(Datum topics)
{
	int			n;
	char	  **patterns = patterns_of_array(DatumGetArrayTypeP(topics), &n);

	for (int i = 0; i < n; i++)
		check_pattern(patterns[i]);
}

/* The argument that names a destination; throws if it is NULL. */
static Datum
name_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of a destination must not be null")));
	return PG_GETARG_DATUM(0);
}

/* A new name is as one of a replication slot. */
static void
check_new_name(const char *name)
{
	size_t		length = strlen(name);

	if (length > 0 && length < NAMEDATALEN &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == length)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("invalid name of a destination: \"%s\"", name),
			 errhint("It may have 1 to %d lower case letters, digits and underscores.",
					 NAMEDATALEN - 1)));
}

/* Whoever defines destinations has the rights of the extension's owner. */
static void
check_rights(const char *function)
{
	ExtensionRow extension;

	PreventCommandIfReadOnly(function);
	if (!extension_row_read(&extension) ||
		!has_privs_of_role(GetUserId(), extension.owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", function),
				 errdetail("The settings of a destination name libraries and files that the server reads."),
				 errhint("Only who has the rights of the extension's owner may call it.")));
}

static void
report_existing(Datum name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("destination \"%s\" already exists",
					TextDatumGetCString(name))));
}

/* "default" is what postgresql.conf says it is. */
static bool
is_default(Datum name)
{
	return strcmp(TextDatumGetCString(name), "default") == 0;
}

static void
report_bad_setting(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a destination cannot have the setting \"%s\"", name),
			 errdetail("%s", detail)));
}

/* Is this the full name of a setting that somebody has defined? */
static bool
is_defined(const char *name)
{
	return GetConfigOption(name, true, false) != NULL &&
		!(GetConfigOptionFlags(name, true) & GUC_CUSTOM_PLACEHOLDER);
}

/*
 * The full name of a setting, palloc'd, or throw: of ours, or of the library that is
 * the destination's publisher, which is loaded for that.
 */
static char *
full_name(const char *name, const char *publisher)
{
	const char *dot = strchr(name, '.');
	char	   *full = dot ? pstrdup(name) : psprintf(SETTING_PREFIX "%s", name);

	for (int i = 0; i < lengthof(common_settings); i++)
	{
		if (strcmp(name, common_settings[i]) == 0)
			report_bad_setting(name, "It is for all destinations alike.");
	}
	if (dot)
	{
		char	   *library = pnstrdup(name, dot - name);

		if (strcmp(library, publisher) != 0)
			report_bad_setting(name,
							   psprintf("It is of library \"%s\", and the publisher is \"%s\".",
										library, publisher));
		if (!is_defined(full))
			load_file(library, !superuser());
	}
	if (!is_defined(full))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("unrecognized configuration parameter \"%s\"", full)));
	return full;
}

/*
 * Check each setting by its own check; values that are null take a setting away.
 * "publisher" is the destination's.
 */
static void
check_settings(Jsonb *settings, const char *publisher)
{
	JsonbIterator *it = JsonbIteratorInit(&settings->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(settings))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("settings of a destination must be an object"),
				 errhint("For example, '{\"publisher\": \"http\"}'.")));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *value;

		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		if (token != WJB_VALUE || v.type == jbvNull)
			continue;
		if (v.type == jbvString)
			value = pnstrdup(v.val.string.val, v.val.string.len);
		else if (v.type == jbvBool)
			value = pstrdup(v.val.boolean ? "true" : "false");
		else if (v.type == jbvNumeric)
			value = DatumGetCString(DirectFunctionCall1(numeric_out,
														NumericGetDatum(v.val.numeric)));
		else
		{
			report_bad_setting(name, "Its value is no string, number, boolean or null.");
			continue;
		}

		/* as validate_option_array_item() of guc.c has it */
		(void) set_config_option(full_name(name, publisher), value,
								 superuser() ? PGC_SUSET : PGC_USERSET,
								 PGC_S_TEST, GUC_ACTION_SET, false, 0, false);
	}
}

/* The publisher that these settings want, palloc'd; NULL: they do not say. */
static char *
publisher_of(Jsonb *settings)
{
	JsonbValue	key;
	JsonbValue *value;

	key.type = jbvString;
	key.val.string.val = "publisher";
	key.val.string.len = strlen("publisher");
	value = findJsonbValueFromContainer(&settings->root, JB_FOBJECT, &key);
	if (!value || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Check what a user wants of a destination. */
static void
check_definition(Oid function, const StoreDefinition *definition)
{
	Jsonb	   *settings;
	char	   *publisher;

	if (definition->topics)
		check_topics(definition->topics);
	if (!definition->settings)
		return;
	if (is_default(definition->name))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("destination \"default\" has no settings of its own"),
				 errhint("Set them in postgresql.conf or by ALTER DATABASE.")));
	settings = DatumGetJsonbP(definition->settings);
	publisher = JB_ROOT_IS_OBJECT(settings) ? publisher_of(settings) : NULL;
	if (!publisher)
		publisher = store_destination_setting(function, definition->name,
											  "publisher");
	check_settings(settings, publisher ? publisher : guc_publisher);
}

/* What the arguments say: name, topics, settings; the last two may be NULL. */
static StoreDefinition
definition_args(FunctionCallInfo fcinfo)
{
	StoreDefinition definition;

	definition.name = name_arg(fcinfo);
	definition.topics = PG_ARGISNULL(1) ? 0 : PG_GETARG_DATUM(1);
	definition.settings = PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2);
	return definition;
}

Datum
outbox_add_destination(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	StoreDefinition definition;

	check_rights("outbox_add_destination");
	definition = definition_args(fcinfo);
	check_new_name(TextDatumGetCString(definition.name));
	if (is_default(definition.name))
		report_existing(definition.name);
	if (!definition.topics || !definition.settings)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topics and settings of a destination must not be null")));
	check_definition(function, &definition);
	if (!store_add_destination(function, &definition,
							   !PG_ARGISNULL(3) && PG_GETARG_BOOL(3)))
		report_existing(definition.name);
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	PG_RETURN_VOID();
}

Datum
outbox_alter_destination(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	StoreDefinition definition;

	check_rights("outbox_alter_destination");
	definition = definition_args(fcinfo);
	check_definition(function, &definition);
	store_alter_destination(function, &definition);
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	PG_RETURN_VOID();
}

Datum
outbox_drop_destination(PG_FUNCTION_ARGS)
{
	Datum		name;
	int64		n;

	check_rights("outbox_drop_destination");
	name = name_arg(fcinfo);
	if (is_default(name))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("destination \"default\" cannot be dropped"),
				 errhint("outbox_alter_destination('default', topics => '{}') has it take nothing.")));
	n = store_drop_destination(fcinfo->flinfo->fn_oid, name);
	if (n > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld event has not been delivered to destination \"%s\"",
							   "%lld events have not been delivered to destination \"%s\"",
							   (unsigned long) n, (long long) n,
							   TextDatumGetCString(name))));
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	PG_RETURN_VOID();
}

Datum
outbox_pause(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("outbox_pause()");
	store_pause_destination(fcinfo->flinfo->fn_oid, name_arg(fcinfo), true);
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	PG_RETURN_VOID();
}

Datum
outbox_resume(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("outbox_resume()");
	store_pause_destination(fcinfo->flinfo->fn_oid, name_arg(fcinfo), false);
	shmem_wake_relays_at_commit(RELAY_REQUEST_DESTINATIONS);
	PG_RETURN_VOID();
}

Datum
outbox_replay(PG_FUNCTION_ARGS)
{
	Datum		topic = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	Datum		since = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	int64		n;

	PreventCommandIfReadOnly("outbox_replay()");
	if (topic)
		check_pattern(TextDatumGetCString(topic));
	n = store_replay(fcinfo->flinfo->fn_oid, name_arg(fcinfo), topic, since);
	shmem_wake_relays_at_commit(RELAY_REQUEST_SERVE);
	PG_RETURN_INT64(n);
}
