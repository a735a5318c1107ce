/*-------------------------------------------------------------------------
 *
 * http_address.h
 *		Which addresses may be connected to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_ADDRESS_H
#define OUTBOX_HTTP_ADDRESS_H

#include <sys/socket.h>

/* The addresses that are equal to this one where the mask has bits. */
typedef struct HttpNetwork
{
	struct sockaddr_storage address;
	struct sockaddr_storage mask;
} HttpNetwork;

extern const char *http_address_list_problem(const char *list);
extern HttpNetwork *http_address_read_list(const char *list, int *n);
extern bool http_address_is_in(const HttpNetwork *networks, int n,
							   const struct sockaddr_storage *address);
extern bool http_address_text_is_in(const HttpNetwork *networks, int n,
									const char *str);
extern bool http_address_is_loopback(const char *str);

#endif							/* OUTBOX_HTTP_ADDRESS_H */
