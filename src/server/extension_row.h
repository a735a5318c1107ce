/*-------------------------------------------------------------------------
 *
 * extension_row.h
 *		The catalog row of our extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXTENSION_H
#define OUTBOX_EXTENSION_H

typedef struct ExtensionRow
{
	Oid			oid;
	Oid			owner;
	Oid			nspoid;			/* schema of its objects */
	char		version[NAMEDATALEN];	/* of the SQL objects */
} ExtensionRow;

extern bool extension_read(ExtensionRow *row);

#endif							/* OUTBOX_EXTENSION_H */
