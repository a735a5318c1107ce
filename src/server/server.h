/*-------------------------------------------------------------------------
 *
 * server.h
 *		What the extension has of the whole server: the launcher, the hook
 *		for commands on databases, and the row in pg_extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SERVER_H
#define OUTBOX_SERVER_H

/* launcher.c */
extern void launcher_register(void);
extern PGDLLEXPORT void outbox_launcher_main(Datum arg);

/* database_scan.c */
extern void database_scan_init(void);
extern long database_scan(void);
extern bool database_scan_failed(Oid dboid);
extern bool database_scan_is_locked(Oid dboid);
extern const char *database_scan_name(Oid dboid);

/* database_commands.c */
extern void database_commands_init(void);

/* extension_row.c */
typedef struct ExtensionRow
{
	Oid			oid;
	Oid			owner;
	Oid			nspoid;			/* schema of its objects */
	char		version[NAMEDATALEN];	/* of the SQL objects */
} ExtensionRow;

extern bool extension_row_read(ExtensionRow *row);

#endif							/* OUTBOX_SERVER_H */
