/*-------------------------------------------------------------------------
 *
 * http_header.h
 *		Which headers a user may add to requests, and where a response begins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_HEADER_H
#define OUTBOX_HTTP_HEADER_H

/* Between the names in a list of them */
#define HTTP_HEADER_SEPARATORS ", \t"

extern const char *http_header_problem(const char *line, Size len);
extern const char *http_header_list_problem(const char *lines);
extern const char *http_header_names_problem(const char *names);
extern bool http_header_is_status(const char *line, Size len);

#endif							/* OUTBOX_HTTP_HEADER_H */
