/*-------------------------------------------------------------------------
 *
 * store_values.c
 *		Values on their way to statements and back: arrays, states, texts.
 *
 * The relay's memory is UTF-8, the tables have the server's encoding.
 *
 * Everything is made in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "store/store_internal.h"

#define STATE_NAME(NAME, name) [DELIVERY_##NAME] = #name,

static const char *const state_names[] = {
	DELIVERY_STATES(STATE_NAME)
};

/* An array of values, of which "nulls" (or NULL: none) are NULL. */
Datum
store_array(Datum *values, bool *nulls, int n, Oid type)
{
	int			lb = 1;
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lb, type,
											  len, byval, align));
}

Datum
store_id_array(const int64 *ids, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(ids[i]);
	return store_array(values, NULL, n, INT8OID);
}

/* The ids in such an array, "n" of them; none is NULL. */
int64 *
store_ids_of_array(Datum array, int *n)
{
	Datum	   *values;
	int64	   *ids;

	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, 8, FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &values, NULL, n);
	ids = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		ids[i] = DatumGetInt64(values[i]);
	return ids;
}

const char *
store_state_name(DeliveryState state)
{
	return state_names[state];
}

/* The state of this name; NDELIVERY_STATES for one that the relay never writes. */
DeliveryState
store_state(Datum name)
{
	text	   *t = DatumGetTextPP(name);

	for (int i = 0; i < NDELIVERY_STATES; i++)
	{
		if (strlen(state_names[i]) == VARSIZE_ANY_EXHDR(t) &&
			memcmp(state_names[i], VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)) == 0)
			return i;
	}
	return NDELIVERY_STATES;
}

/* A text from a table as a string in UTF-8. */
char *
store_utf8(Datum value)
{
	char	   *str = TextDatumGetCString(value);
	char	   *utf8 = pg_server_to_any(str, strlen(str), PG_UTF8);

	if (utf8 != str)
		pfree(str);
	return utf8;
}

/* A string in UTF-8, which came from a table, as a text for one. */
Datum
store_text(const char *utf8)
{
	return CStringGetTextDatum(pg_any_to_server(utf8, strlen(utf8), PG_UTF8));
}
