/*-------------------------------------------------------------------------
 *
 * secret_file.h
 *		Files that hold what must not be the value of a setting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SECRET_FILE_H
#define OUTBOX_SECRET_FILE_H

extern bool secret_file_read(const char *path, char **str,
							 const char **reason);
extern bool public_file_read(const char *path, char **str,
							 const char **reason);

#endif							/* OUTBOX_SECRET_FILE_H */
