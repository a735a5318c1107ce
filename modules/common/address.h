/*-------------------------------------------------------------------------
 *
 * address.h
 *		Where a broker is: a URL taken apart.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ADDRESS_H
#define OUTBOX_ADDRESS_H

/* A scheme that a module knows; the last of an array has no name. */
typedef struct AddressScheme
{
	const char *name;			/* with "://" */
	bool		tls;
	const char *default_port;
} AddressScheme;

typedef struct Address
{
	bool		tls;
	const char *host;			/* a name, or an address without brackets */
	const char *port;
	const char *path;			/* behind the first slash, decoded; or NULL */
} Address;

extern const char *address_parse(const char *url, const AddressScheme *schemes,
								 Address *address, bool *has_user);

#endif							/* OUTBOX_ADDRESS_H */
